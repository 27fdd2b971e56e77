"""Parameters to torch tensors and back, by one rule a kind of leaf.

Attribute paths equal the reference's names, so a table needs no entries of its own: it is derived from the module.
The mapping is total both ways: a missing, unused or wrongly shaped tensor is an error that names it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.errors import LDISError, list_names

Module = TypeVar("Module", bound=nnx.Module)
Path = tuple[Any, ...]

_FLOATS = ("float32", "float16", "bfloat16")


class Entry(NamedTuple):
    """One parameter's counterpart in a torch state dict."""

    path: Path
    shape: tuple[int, ...]  # torch's
    to_torch: tuple[int, ...]  # axes that turn our array into torch's


# Our axes in torch's order: convolutions HWIO -> OIHW, linear layers [in, out] -> [out, in].
_KERNEL_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
_LEAF_NAMES = {"kernel": "weight", "scale": "weight"}


def table(module: nnx.Module) -> dict[str, Entry]:
    """Torch name -> entry for every parameter of a module, concrete or abstract."""
    entries = {}
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        *parents, leaf = path
        shape = variable.get_value().shape
        axes = _KERNEL_AXES[len(shape)] if leaf == "kernel" else tuple(range(len(shape)))
        name = ".".join(map(str, (*parents, _LEAF_NAMES.get(str(leaf), leaf))))
        entries[name] = Entry(path, tuple(shape[axis] for axis in axes), axes)
    return entries


def to_torch(module: nnx.Module) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (torch name, array in torch's layout), one tensor at a time."""
    state = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))
    for name, entry in table(module).items():
        yield name, np.ascontiguousarray(np.transpose(np.asarray(state[entry.path].get_value()), entry.to_torch))


def fill(
    module: Module,
    tensors: Mapping[str, np.ndarray],
    where: str,
    *,
    dtype: DTypeLike = jnp.float32,
    rename: Callable[[str], str | None] = lambda name: name,
) -> Module:
    """A copy of an (abstract) module that holds the given tensors.

    Args:
        module: gives the structure and the shapes.
        tensors: torch names -> arrays; read one at a time, each exactly once.
        where: file name for error messages.
        dtype: of the stored parameters.
        rename: a file's name -> the module's name, or None for a tensor that the module has no use for.

    Raises:
        LDISError: a missing, unused or wrongly shaped tensor, or one that is not floating point.
    """
    entries = table(module)
    sources: dict[str, str] = {}
    for name in tensors:
        target = rename(name)
        if target is not None:
            if target in sources:
                raise LDISError(f"{where}: {name} and {sources[target]} are the same parameter")
            sources[target] = name
    if missing := entries.keys() - sources.keys():
        raise LDISError(f"{where}: missing tensor {list_names(missing)}; is it another kind of checkpoint?")
    if unused := sources.keys() - entries.keys():
        raise LDISError(f"{where}: unused tensor {list_names(unused)}; does config.json belong to these weights?")

    graphdef, state = nnx.split(module)
    flat = dict(nnx.to_flat_state(state))
    wrong = []
    for name, entry in entries.items():
        array = tensors[sources[name]]
        if array.shape != entry.shape:
            wrong.append(f"{name} {list(array.shape)} (expected {list(entry.shape)})")
        elif array.dtype.name not in _FLOATS:
            wrong.append(f"{name} of type {array.dtype.name} (expected one of {', '.join(_FLOATS)})")
        elif not wrong:
            array = np.transpose(array, np.argsort(entry.to_torch))
            flat[entry.path] = flat[entry.path].replace(jnp.asarray(array, dtype))
    if wrong:
        raise LDISError(f"{where}: wrong tensor {list_names(wrong)}")
    return nnx.merge(graphdef, nnx.from_flat_state(list(flat.items())))


def initialise(module: Module, seed: int) -> Module:
    """A copy of an abstract module with fresh float32 parameters.

    Kernels are normal with variance 1 / fan-in, scales 1, biases 0, each a function of (seed, its name). Drawn by
    NumPy: XLA would compile a program for every shape, which takes longer than training some small networks.
    """
    graphdef, state = nnx.split(module)
    flat = []
    for path, variable in nnx.to_flat_state(state):
        shape, leaf = variable.get_value().shape, path[-1]
        if leaf in ("bias", "scale"):
            array = np.full(shape, float(leaf == "scale"), np.float32)
        else:
            name = zlib.crc32("/".join(map(str, path)).encode())
            rng = np.random.Generator(np.random.Philox(key=[seed, name]))
            array = rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(math.prod(shape[:-1])))
        flat.append((path, variable.replace(jnp.asarray(array))))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))
