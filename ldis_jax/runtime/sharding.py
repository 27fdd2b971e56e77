"""Where arrays live: one mesh, one rule for batches, one list of path rules for parameters."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from ldis_jax.errors import LDISError

SLICE, DATA, FSDP = "slice", "data", "fsdp"
BATCH = (SLICE, DATA, FSDP)  # the axes that share a batch: all of them

# First match wins: (pattern of the parameter's path, array axes that may be sharded over ``fsdp``, from the end, best
# first). Kernels are sharded over their output features; what stays replicated is small.
_RULES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"(^|/)(bias|scale)$", ()),
    (r"(^|/)conv_out/kernel$", (-2,)),  # sharding its 4 output channels would shard the loss
    (r"(^|/)kernel$", (-1, -2)),
)
LARGE = 2**20  # elements from which a replicated parameter is worth a warning


def make_mesh(data: int = -1, fsdp: int = 1, slices: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (slice, data, fsdp) mesh.

    Args:
        data: replicas of the parameters in a slice; -1 takes what ``fsdp`` leaves.
        fsdp: devices that share one copy of the parameters, neighbours in a slice.
        slices: TPU slices joined by the data-centre network, over which only gradients travel.
        devices: all of them unless given.

    Raises:
        LDISError: the axes do not multiply to the number of devices, or the devices are in other slices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if data == -1 and fsdp > 0 and slices > 0:
        data = count // (fsdp * slices)
    axes, types = (SLICE, DATA, FSDP), (AxisType.Auto,) * 3
    # Neighbours in a row of the grid of chips stay neighbours; an axis may be part of one of the grid's.
    split = {"allow_split_physical_axes": True}
    try:
        if slices == 1:
            grid = mesh_utils.create_device_mesh((1, data, fsdp), devices, **split)
        else:
            grid = mesh_utils.create_hybrid_device_mesh((1, data, fsdp), (slices, 1, 1), devices, **split)
    except (ValueError, AssertionError, NotImplementedError) as error:
        product, why = f"slices={slices} x data={data} x fsdp={fsdp}", " ".join(str(error).split())[:200]
        raise LDISError(f"config.mesh: {product} does not make {count} devices: {why}") from None
    return Mesh(grid, axes, axis_types=types)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """One axis, the leading one unless told otherwise, over every device."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_sharding(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The sharding of one parameter, its gradient and its optimizer moments, by the path rules (ZeRO's third stage)."""
    for pattern, axes in _RULES:
        if re.search(pattern, path):
            for axis in axes:
                if mesh.shape[FSDP] > 1 and shape[axis] % mesh.shape[FSDP] == 0:
                    spec: list[str | None] = [None] * len(shape)
                    spec[axis] = FSDP
                    return NamedSharding(mesh, PartitionSpec(*spec))
            break
    return replicated(mesh)


def gather(x: jax.Array, spec: PartitionSpec, dtype: str) -> jax.Array:
    """A parameter that is sharded by ``spec``, whole on this device and of ``dtype``, inside a ``shard_map``.

    Its gradient goes back the same way, as a reduce-scatter over ``fsdp``. What is not sharded stays as it is.
    """
    if FSDP not in spec:
        return x
    return jax.lax.all_gather(x.astype(dtype), FSDP, axis=tuple(spec).index(FSDP), tiled=True)


def mean_gradient(x: jax.Array, spec: PartitionSpec, mesh: Mesh) -> jax.Array:
    """A gradient of this device's samples -> of all devices', inside a ``shard_map``.

    Of a gathered parameter it is this device's part, summed over ``fsdp`` already: only that part travels between the
    replicas of a slice, and only its sum between slices.
    """
    for axis in (DATA, SLICE) if FSDP in spec else (FSDP, DATA, SLICE):
        x = jax.lax.psum(x, axis) if mesh.shape[axis] > 1 else x
    return x / mesh.size


def draw_batch(draw: Callable[..., jax.Array], key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``draw(key, shape)``; inside a ``shard_map`` this device's samples of what the whole batch draws.

    So a random number depends on the key and the sample, not on how many devices share the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.manual_axes:
        return draw(key, shape)
    whole = draw(key, (shape[0] * mesh.size, *shape[1:]))
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(BATCH) * shape[0], shape[0])


def large_replicated(params: Mapping[str, jax.Array | jax.ShapeDtypeStruct], mesh: Mesh) -> list[str]:
    """Parameters of over a million elements that ``fsdp`` was meant to share out and no rule could, with shapes."""
    if mesh.shape[FSDP] == 1:
        return []
    return [
        f"{name} {tuple(value.shape)}"
        for name, value in params.items()
        if value.size >= LARGE and param_sharding(name, value.shape, mesh).is_fully_replicated
    ]


def put(tree: Any, placed: Any) -> Any:
    """Arrays that every process has alike -> global arrays.

    ``jax.device_put`` first compares the copies of several processes, for which each chip gathers all of them: with 64
    hosts 13 GB of an evaluation's batch.

    Args:
        tree: of arrays.
        placed: their shardings, a tree of the same structure, or one for all.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, placed)

    def one(array: Any, where: NamedSharding) -> jax.Array:
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

    if isinstance(placed, NamedSharding):
        return jax.tree.map(lambda array: one(array, placed), tree)
    return jax.tree.map(one, tree, placed)


def process_rows(mesh: Mesh, batch_size: int, process: int) -> list[int]:
    """Which samples of a global batch lie on the devices of a process, ascending.

    They need not follow one another: the mesh follows the links between chips, not the hosts they hang on.
    """
    places: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((batch_size,))
    ours = {index[0].indices(batch_size)[:2] for device, index in places.items() if device.process_index == process}
    return [row for start, stop in sorted(ours) for row in range(start, stop)]


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """One process's samples of a global batch, those of :func:`process_rows` -> global arrays, sharded by samples."""
    where = batch_sharding(mesh)

    def one(array: np.ndarray) -> jax.Array:
        size = len(array) * jax.process_count()
        rows = process_rows(mesh, size, jax.process_index())

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            first = bisect.bisect_left(rows, start)
            return array[first : first + stop - start]

        return jax.make_array_from_callback((size, *array.shape[1:]), where, part)

    return {name: one(array) for name, array in batch.items()}


def to_host(params: dict[str, jax.Array], mesh: Mesh) -> dict[str, np.ndarray]:
    """Parameters in host memory, whole, on every process; one at a time, so that no device holds them all."""
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))
    return {name: np.asarray(whole(value)) for name, value in params.items()}
