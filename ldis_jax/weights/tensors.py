"""Tensors that are read when they are needed, so that no checkpoint is ever in memory whole.

Every source of weights becomes a :class:`Weights`: names and lazy tensors. What follows (renaming, checking, casting,
writing) works on those, one tensor at a time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import safe_open

from ldis_jax.errors import LDISError
from ldis_jax.support.files import atomic_write

FLOATS = ("float32", "float16", "bfloat16")
# The format's type names where they differ from NumPy's in more than spelling.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
_DTYPES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8"}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor in torch's layout whose values are fetched by ``read()``."""

    shape: tuple[int, ...]
    dtype: str  # "float32", "bfloat16", ...
    read: Callable[[], np.ndarray]

    def __getitem__(self, index: Any) -> LazyTensor:
        """NumPy's basic indexing, as lazy as the whole."""
        shape = np.broadcast_to(np.int8(0), self.shape)[index].shape
        return LazyTensor(shape, self.dtype, lambda: self.read()[index])

    @property
    def nbytes(self) -> int:
        """Bytes of the values; only for types that NumPy or ``ml_dtypes`` know."""
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize


class Weights(NamedTuple):
    """Lazy tensors and the file or folder that error messages name."""

    tensors: Mapping[str, LazyTensor]
    where: str
    metadata: Mapping[str, str] = types.MappingProxyType({})  # free text of a safetensors header

    def rename(self, function: Callable[[str], str | None]) -> Weights:
        """Each name replaced; None drops a tensor that the network has no use for. Two that become one are an error."""
        renamed: dict[str, LazyTensor] = {}
        for name, tensor in self.tensors.items():
            target = function(name)
            if target in renamed:
                raise LDISError(f"{self.where}: two tensors are the same parameter, {target}")
            if target is not None:
                renamed[target] = tensor
        return self._replace(tensors=renamed)

    def overlaid(self, added: Mapping[str, LazyTensor], where: str = "") -> Weights:
        """``added`` on top; ``where`` names both origins in messages."""
        return Weights({**self.tensors, **added}, f"{self.where} and {where}" if where else self.where)


def from_array(array: np.ndarray) -> LazyTensor:
    """A tensor that is in memory."""
    return LazyTensor(array.shape, array.dtype.name, lambda: array)


def cast(tensor: LazyTensor, dtype: str) -> LazyTensor:
    """Another floating-point type ("float32", "bfloat16"), on reading."""
    return LazyTensor(tensor.shape, dtype, lambda: tensor.read().astype(numpy_dtype(dtype), copy=False))


def all_finite(array: np.ndarray) -> bool:
    """True if no value is NaN or infinity."""
    # Cheap first: a sum is finite unless a term is not, or it overflows.
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.sum(array, dtype=np.float32)) or np.isfinite(array).all())


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's type of this name, ``ml_dtypes``' included."""
    return np.dtype(getattr(ml_dtypes, name, name))


def is_safetensors(path: Path) -> bool:
    """True if a file is one by its name, or begins as they do: the header's length in eight bytes, then JSON."""
    with open(path, "rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def open_safetensors(path: Path) -> Weights:
    """The tensors of one safetensors file; its header is checked by the library against the file's length."""
    file = safe_open(path, framework="np", backend="pread")  # mapped pages would count as memory until the end
    slices = {name: file.get_slice(name) for name in list(file.keys())}

    def lazy(name: str, part: Any) -> LazyTensor:
        kind = str(part.get_dtype())
        return LazyTensor(tuple(part.get_shape()), _DTYPES.get(kind, kind.lower()), lambda: file.get_tensor(name))

    return Weights({name: lazy(name, part) for name, part in slices.items()}, str(path), file.metadata() or {})


def write_safetensors(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    progress: Callable[[int], Any] = lambda _: None,
    metadata: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Writes tensors of floats or bytes one at a time; the library's own writer wants all of them in memory.

    ``progress`` is called with the bytes of every tensor written; the metadata's "format" is "pt" (torch) unless given.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            array = np.ascontiguousarray(tensors[name].read())
            file.write(array.reshape(-1).view(np.uint8).data)
            progress(array.nbytes)
