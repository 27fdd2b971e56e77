"""The paper's own weights: the UNet in a DeepSpeed ``mp_rank_00_model_states.pt``, under ``"module"``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.weights.network_files import open_file
from ldis_jax.weights.tensors import LazyTensor, Weights, cast
from ldis_jax.weights.torch_files import write_torch

# Input channels of the UNet -> task.
_TASKS = {4: "ldis1", 8: "ldisn"}


def open_ldis_checkpoint(path: Path) -> tuple[str, Weights]:
    """(task, UNet tensors): LDIS-1 has 4 input channels, LDIS-n 8.

    Raises:
        LDISError: an unreadable file, or one that is no LDIS UNet.
    """
    weights = open_file(path).rename(lambda name: name.removeprefix("module."))  # DistributedDataParallel's
    for name in ("conv_in.weight", "encoder_hid_proj.weight"):
        if name not in weights.tensors:
            raise LDISError(f"{path}: no tensor {name}, so no LDIS checkpoint; expected mp_rank_00_model_states.pt")
    channels = weights.tensors["conv_in.weight"].shape[1:2]
    if not channels or channels[0] not in _TASKS:
        shape = list(weights.tensors["conv_in.weight"].shape)
        raise LDISError(f"{path}: conv_in.weight {shape}; LDIS-1 has 4 input channels, LDIS-n 8")
    return _TASKS[channels[0]], weights


def write_ldis_checkpoint(path: Path, unet: Mapping[str, LazyTensor]) -> None:
    """Writes what the paper's scripts load from ``CHECKPOINT/pytorch_model/mp_rank_00_model_states.pt``, in float32."""
    write_torch(path, {name: cast(tensor, "float32") for name, tensor in unet.items()})
