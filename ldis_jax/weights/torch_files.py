"""Torch's own files, in and out: the one place that imports torch, which is optional.

Pickles are read by ``torch.load(weights_only=True)`` alone: they hold tensors, numbers and containers, or are refused.
A TorchScript archive (OpenAI's CLIP) is compiled by ``torch.jit.load``, so it is trusted input, as the docs say.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import ml_dtypes
import numpy as np

from ldis_jax.errors import LDISError, list_names
from ldis_jax.support.files import atomic_write, reading
from ldis_jax.support.pickles import check_pickle
from ldis_jax.weights.tensors import LazyTensor, Weights

# Where checkpoints keep their state dict: DeepSpeed, Lightning and the original Stable Diffusion, plain trainers.
_STATE_KEYS = ("module", "state_dict", "model")
_MAX_NESTING = 3
_REFUSED = ("bytearray",)  # of any length, which torch would make of a number
_OLD_PICKLES = 5  # of files before torch 1.6, ahead of the values
_MAX_TABLE_BYTES = 64_000_000  # of names and shapes
# TorchScript compresses its source code, of which CLIP has less.
_MAX_CODE_BYTES = 16_000_000


def open_torch(path: Path, *, torchscript: bool = False) -> Weights:
    """The tensors of a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file.

    With ``torchscript`` a TorchScript archive, which is code, may be compiled to get at its tensors.

    Raises:
        LDISError: a malicious file, one that holds more than tensors, or torch is not installed. A damaged one raises
            what it leads torch to; :func:`~ldis_jax.weights.network_files.open_file` puts that in one line.
    """
    torch = _torch(path)
    state = _state_dict(torch, _load(torch, path, torchscript))
    bad = [f"{_name(key)} ({_kind(torch, value)})" for key, value in state.items() if not _is_dense(torch, key, value)]
    if bad or not state:
        places, found = list(_STATE_KEYS), list_names(bad) or "no tensors"
        raise LDISError(f"{path}: expected a state dict, at the top or under {places}; found {found}")
    return Weights({name: _lazy(torch, tensor) for name, tensor in state.items()}, str(path))


def shapes_inside(stream: IO[bytes], where: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a checkpoint of which only the table of contents is read, not the tensors.

    Raises:
        LDISError: torch is not installed, or the file is none of torch's, or holds more than tensors.
    """
    torch = _torch(Path(where))
    from torch._subclasses import FakeTensorMode

    with reading(where):
        with zipfile.ZipFile(stream) as archive:
            _check_archive(archive, _MAX_TABLE_BYTES)
        stream.seek(0)
        with FakeTensorMode():
            state = _state_dict(torch, torch.load(stream, weights_only=True))
    return {str(name): tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


def _state_dict(torch: ModuleType, content: Any) -> Mapping[Any, Any]:
    """The state dict in what a file holds; empty where there is none."""
    for _ in range(_MAX_NESTING):
        if isinstance(content, Mapping) and not any(isinstance(value, torch.Tensor) for value in content.values()):
            content = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), None)
    return content if isinstance(content, Mapping) else {}


def write_torch(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes ``{"module": state dict}``, which is how DeepSpeed stores a model."""
    torch = _torch(path)
    state = {name: torch.from_numpy(np.array(tensor.read(), np.float32)) for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                torch.save({"module": state}, file)
        except RuntimeError as error:  # torch's own word for a full disk
            raise OSError(f"torch could not write it: {' '.join(str(error).split())[:120]}") from error


def _load(torch: ModuleType, path: Path, torchscript: bool) -> Any:
    archive = zipfile.is_zipfile(path)
    names, unpacked = _entries(path) if archive else ([], 0)
    code = any(name.endswith("/constants.pkl") for name in names)
    if unpacked > 2 * path.stat().st_size + _MAX_CODE_BYTES:  # torch compresses no tensors
        size = f"{unpacked / 1e9:.3g} GB"
        refused = LDISError(f"{path}: refused, an archive that unpacks to {size}; torch.save writes none")
    elif code and not torchscript:
        refused = LDISError(f"{path}: refused, a TorchScript archive, which is code; only --clip takes one")
    else:
        _check_pickles(path, archive)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about TorchScript's future
                if code:
                    return torch.jit.load(path, map_location="cpu").state_dict()
                return torch.load(path, map_location="cpu", mmap=archive, weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = f"it asks to load {found[1].rstrip(',')}" if found else "it is damaged, or holds more than tensors"
            refused = LDISError(f"{path}: refused, {what}; a weight file may hold tensors only")
    raise refused


def _entries(path: Path) -> tuple[list[str], int]:
    """A zip's file names, and the bytes that it unpacks to."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    return [entry.filename for entry in entries], sum(entry.file_size for entry in entries)


def _check_pickles(path: Path, archive: bool) -> None:
    """Raises ``ValueError`` where loading would take more time or memory than the file's size tells."""
    if archive:
        with zipfile.ZipFile(path) as files:
            _check_archive(files)
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(_OLD_PICKLES):
            if content.tell() < len(content):
                check_pickle(content, _REFUSED)


def _check_archive(archive: zipfile.ZipFile, most: float = math.inf) -> None:
    for entry in archive.infolist():
        if entry.filename.lower().endswith(".pkl"):
            if entry.file_size > most:
                raise ValueError("a pickle that asks for more time or memory than a look may take")
            check_pickle(io.BytesIO(archive.read(entry)), _REFUSED)


def _name(key: Any) -> str:
    return repr(key) if isinstance(key, str | int) else type(key).__name__


def _kind(torch: ModuleType, value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.layout}, {value.device}, {value.dtype}"
    return type(value).__name__


def _is_dense(torch: ModuleType, name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_nested or value.is_quantized)
    )


def _lazy(torch: ModuleType, tensor: Any) -> LazyTensor:
    def read() -> np.ndarray:
        values = tensor.detach().resolve_neg()
        if values.dtype == torch.bfloat16:  # NumPy has no such type
            return values.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return values.numpy()

    return LazyTensor(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), read)


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError:
        raise LDISError(f"{path}: torch's format; pip install -e '.[torch]' to read or write it") from None
    return torch
