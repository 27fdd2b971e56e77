"""The paper's own weights: the UNet in a DeepSpeed ``mp_rank_00_model_states.pt``, under ``"module"``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.weights.network_files import open_file
from ldis_jax.weights.tensors import LazyTensor, Weights, cast
from ldis_jax.weights.torch_files import write_torch

# Input channels of the UNet -> task.
TASKS = {4: "ldis1", 8: "ldisn"}


def open_ldis_checkpoint(path: Path, wanted: str | None = None) -> tuple[str, Weights]:
    """(task, UNet tensors): LDIS-1 has 4 input channels, LDIS-n 8.

    Raises:
        LDISError: an unreadable file, or one that is no LDIS UNet, or not of the ``wanted`` task.
    """
    weights = open_file(path).rename(lambda name: name.removeprefix("module."))  # DistributedDataParallel's
    conv_in = weights.tensors.get("conv_in.weight")
    task = TASKS.get(conv_in.shape[1]) if conv_in is not None and len(conv_in.shape) == 4 else None
    if task is None or wanted not in (None, task) or "encoder_hid_proj.weight" not in weights.tensors:
        needs = "a conv_in.weight of 4 (LDIS-1) or 8 (LDIS-n) input channels and an encoder_hid_proj.weight"
        kind = wanted or "LDIS"
        raise LDISError(f"{path}: no {kind} checkpoint, which has {needs}; expected mp_rank_00_model_states.pt")
    return task, weights


def write_ldis_checkpoint(path: Path, unet: Mapping[str, LazyTensor]) -> None:
    """Writes what the paper's scripts load from ``CHECKPOINT/pytorch_model/mp_rank_00_model_states.pt``, in float32."""
    write_torch(path, {name: cast(tensor, "float32") for name, tensor in unet.items()})
