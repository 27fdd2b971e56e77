"""Torch's own files, in and out: the one place that imports torch, which is optional.

Pickles are read by ``torch.load(weights_only=True)`` alone: they hold tensors, numbers and containers, or are refused.
A TorchScript archive (OpenAI's CLIP) is compiled by ``torch.jit.load``, so it is trusted input, as the docs say.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from ldis_jax.errors import LDISError, list_names
from ldis_jax.support.files import atomic_write
from ldis_jax.weights.tensors import LazyTensor, Weights

# Where checkpoints keep their state dict: DeepSpeed, Lightning and the original Stable Diffusion, plain trainers.
_STATE_KEYS = ("module", "state_dict", "model")
_MAX_NESTING = 3
# TorchScript compresses its source code, of which CLIP has less.
_MAX_CODE_BYTES = 16_000_000


def open_torch(path: Path, *, torchscript: bool = False) -> Weights:
    """The tensors of a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file.

    Args:
        path: the file.
        torchscript: whether a TorchScript archive, which is code, may be compiled to get at its tensors.

    Raises:
        LDISError: a missing, damaged or malicious file, one without tensors, or torch is not installed.
    """
    torch = _torch(path)
    state = _load(torch, path, torchscript)
    for _ in range(_MAX_NESTING):
        if isinstance(state, Mapping) and not any(isinstance(value, torch.Tensor) for value in state.values()):
            state = next((state[key] for key in _STATE_KEYS if isinstance(state.get(key), Mapping)), None)
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise LDISError(f"{path}: holds no tensors; expected a state dict, at the top or under {list(_STATE_KEYS)}")
    bad = [f"{key} ({type(value).__name__})" for key, value in state.items() if not isinstance(value, torch.Tensor)]
    bad += [f"{key!r} ({type(key).__name__} as a name)" for key in state if not isinstance(key, str)]
    if bad:
        raise LDISError(f"{path}: not a tensor {list_names(bad)}; expected a state dict")
    if odd := [
        f"{name} ({tensor.layout}, {tensor.device})" for name, tensor in state.items() if _is_odd(torch, tensor)
    ]:
        raise LDISError(f"{path}: not a dense tensor {list_names(odd)}")
    return Weights({name: _lazy(torch, tensor) for name, tensor in state.items()}, str(path))


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
    try:
        archive = zipfile.is_zipfile(path)
        names = _check_archive(path) if archive else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript's future
            if any(name.endswith("/constants.pkl") for name in names):
                if not torchscript:
                    raise LDISError(f"{path}: refused, a TorchScript archive, which is code; only --clip takes one")
                return torch.jit.load(path, map_location="cpu").state_dict()
            return torch.load(path, map_location="cpu", mmap=archive, weights_only=True)
    except LDISError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks to load {found[1].rstrip(',')}" if found else "it is damaged, or holds more than tensors"
        raise LDISError(f"{path}: refused, {what}; a weight file may hold tensors only") from None
    except OSError as error:
        raise LDISError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch's reader raises whatever a damaged file leads it to
        line = " ".join(str(error).split())[:120]
        raise LDISError(f"{path}: not a readable torch file ({type(error).__name__}: {line}); fetch it again") from None


def _is_odd(torch: ModuleType, tensor: Any) -> bool:
    return tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested


def _check_archive(path: Path) -> list[str]:
    """File names in a zip; torch compresses no tensors, so what unpacks to far more than its size is not torch's."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > 2 * path.stat().st_size + _MAX_CODE_BYTES:
        raise LDISError(f"{path}: refused, an archive that unpacks to {unpacked / 1e9:.3g} GB; torch.save writes none")
    return [entry.filename for entry in entries]


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
        raise LDISError(f"{path}: torch's format; pip install 'ldis_jax[torch]' to read or write it") from None
    return torch
