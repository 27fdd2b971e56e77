"""``metas/meta_*.npy`` of the public code: pickles, read without running anything in them."""

from __future__ import annotations

import io
import operator
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldis_jax.support.files import StrPath, reading
from ldis_jax.support.pickles import check_pickle


def read_meta(path: StrPath) -> list[str]:
    """The file names of a meta file, sorted and without repeats, as a split list.

    Such a file is a pickled pair, as ``numpy.save`` writes it; its second item maps a class to the names of the files
    that show it. The names of all classes together are what is used. Which class is where is *not* taken from it: the
    masks are read in any case, and they know better. The first item is left alone.

    Raises:
        LDISError: unreadable, of another form, or a pickle that asks for anything but containers, strings, integers
            and arrays of numbers, or for more time and memory than its size tells. Nothing in it is run.
    """
    with reading(f"{path}, a pair (.., {{class: [file, ...]}})"):  # a damaged pickle raises nearly anything
        pair = _load(Path(path).read_bytes())
        names = {name for files in dict(pair[1]).values() for name in files}
        return sorted(name if isinstance(name, str) else str(operator.index(name)) for name in names)


class _DType:
    """Stands for a numpy dtype, so that no foreign state reaches numpy's own ``__setstate__``."""

    def __init__(self, code: str, *_: Any):
        self.code, self.order = str(code).lstrip("<>|="), "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "|"

    def values(self, data: bytes) -> list:
        return np.frombuffer(data, np.dtype(self.order + self.code)).tolist()


class _Array:
    """Stands for a numpy array: a flat sequence of its values."""

    values: list

    def __setstate__(self, state: tuple) -> None:
        _version, _shape, dtype, _fortran, data = state
        self.values = list(data) if isinstance(data, list) else dtype.values(data)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]  # also lets it be iterated over

    def item(self) -> Any:
        return self.values[0]


# What pickles of numpy ask for, by module and name; numpy.core became numpy._core in numpy 2.
_STAND_INS: dict[str, Callable[..., Any]] = {
    "ndarray": _Array,
    "dtype": _DType,
    "_reconstruct": lambda *_: _Array(),
    "scalar": lambda dtype, data: dtype.values(data)[0],
}
_BUILTINS = {kind.__name__: kind for kind in (dict, list, set, frozenset, tuple, int)}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return _BUILTINS[name]
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in _STAND_INS:
            return _STAND_INS[name]
        raise ValueError(f"the pickle asks for {module}.{name}, which a list of names does not need; refused")


def _load(data: bytes) -> Any:
    """The object that ``numpy.load(allow_pickle=True)`` returns, or ``pickle.loads`` without an .npy header."""
    stream = io.BytesIO(data)
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        read(stream)
    start = stream.tell()
    check_pickle(stream)
    stream.seek(start)
    value = _Unpickler(stream).load()
    # A 0-d object array holds the pair itself, a 1-d one its two items.
    return value.item() if isinstance(value, _Array) and len(value.values) == 1 else value
