"""Where arrays live: one mesh, one rule for batches, one list of path rules for parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ldis_jax.errors import LDISError

DATA, FSDP = "data", "fsdp"

# First match wins: (pattern of the parameter's path, array axis to shard over ``fsdp``, counted from the end).
# Kernels are sharded over their output features; what stays replicated is small.
_RULES: tuple[tuple[str, int | None], ...] = (
    (r"(^|/)(bias|scale)$", None),
    (r"(^|/)conv_out/kernel$", -2),  # 4 output channels do not divide
    (r"(^|/)kernel$", -1),
)


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp) mesh.

    Args:
        data: replicas of the parameters; -1 takes what ``fsdp`` leaves.
        fsdp: devices that share one copy of the parameters.
        devices: all of them unless given.

    Raises:
        LDISError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if data == -1 and fsdp > 0:
        data = count // fsdp
    if data < 1 or fsdp < 1 or data * fsdp != count:
        raise LDISError(f"config.mesh: data={data} x fsdp={fsdp} does not make {count} devices")
    return jax.make_mesh((data, fsdp), (DATA, FSDP), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over every device."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_sharding(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The sharding of one parameter (or of its optimizer moment) by the path rules."""
    for pattern, axis in _RULES:
        if re.search(pattern, path):
            if axis is not None and shape[axis] % mesh.shape[FSDP] == 0:
                spec: list[str | None] = [None] * len(shape)
                spec[axis] = FSDP
                return NamedSharding(mesh, PartitionSpec(*spec))
            break
    return replicated(mesh)


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """One process's part of a global batch -> global arrays, sharded over their leading axis."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def gather(params: dict[str, jax.Array], mesh: Mesh) -> dict[str, np.ndarray]:
    """Parameters in host memory, whole, on every process; one at a time, so that no device holds them all."""
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))
    return {name: np.asarray(whole(value)) for name, value in params.items()}
