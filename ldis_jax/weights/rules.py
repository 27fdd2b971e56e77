"""Parameters to torch tensors and back, by one rule a kind of leaf.

Attribute paths equal the reference's names, so a table needs no entries of its own: it is derived from the module.
The mapping is total both ways: a missing, unused or wrongly shaped tensor is an error that names it.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.errors import LDISError, list_names
from ldis_jax.runtime.memory import release_free_memory
from ldis_jax.weights.tensors import FLOATS, LazyTensor, Weights, all_finite

Module = TypeVar("Module", bound=nnx.Module)
Path = tuple[Any, ...]


class Entry(NamedTuple):
    """One parameter's counterpart in a torch state dict."""

    path: Path
    shape: tuple[int, ...]  # torch's
    to_torch: tuple[int, ...]  # axes that turn our array into torch's


# Our axes in torch's order: convolutions HWIO -> OIHW, linear layers [in, out] -> [out, in].
_KERNEL_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
_LEAF_NAMES = {"kernel": "weight", "scale": "weight"}
# Tensors that are read at once: four take half the time of one, also on two cores.
_READERS = 4


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


def to_torch(module: nnx.Module) -> dict[str, LazyTensor]:
    """A module's parameters under torch's names; each is transposed to torch's layout when it is read."""
    state = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))

    def lazy(entry: Entry) -> LazyTensor:
        value = state[entry.path].get_value()
        return LazyTensor(entry.shape, value.dtype.name, lambda: np.transpose(np.asarray(value), entry.to_torch))

    return {name: lazy(entry) for name, entry in table(module).items()}


def match(module: nnx.Module, weights: Weights) -> dict[str, LazyTensor]:
    """The tensors of a concrete or abstract module, after the check that they are all of it and nothing else.

    Raises:
        LDISError: a missing, unused or wrongly shaped tensor, or one that is not floating point; on reading a tensor,
            a value that is not finite.
    """
    entries, tensors, where = table(module), weights.tensors, weights.where
    lora = [name for name in tensors if "lora" in name.lower() and name not in entries]
    missing = [f"{name} {list(entries[name].shape)}" for name in entries.keys() - tensors.keys()]
    unused = [f"{name} {list(tensors[name].shape)}" for name in tensors.keys() - entries.keys()]
    both = [(name, tensors[name], entry.shape) for name, entry in entries.items() if name in tensors]
    wrong = [f"{name} {list(t.shape)} (expected {list(shape)})" for name, t, shape in both if t.shape != shape]
    types = ", ".join(FLOATS)
    wrong += [f"{name} of type {t.dtype} (expected one of {types})" for name, t, _ in both if t.dtype not in FLOATS]
    if lora:
        fault = LDISError(f"{where}: a LoRA file, not a whole model ({lora[0]}); merge it into one with --lora")
    elif missing:
        fault = LDISError(f"{where}: missing tensor {list_names(missing)}; is it another kind of checkpoint?")
    elif unused:
        fault = LDISError(f"{where}: unused tensor {list_names(unused)}; does config.json belong to these weights?")
    elif wrong:
        fault = LDISError(f"{where}: wrong tensor {list_names(wrong)}; does config.json belong to these weights?")
    else:
        return {name: _require_finite(tensors[name], f"{where}: {name}") for name in entries}
    raise fault


def fill(
    module: Module,
    weights: Weights,
    *,
    dtype: DTypeLike = jnp.float32,
    float32: Callable[[str], bool] = lambda name: False,
) -> Module:
    """A copy of an (abstract) module that holds the given tensors; raises as :func:`match`.

    They are stored in ``dtype``, and in float32 where ``float32`` says so of their torch name.
    """
    tensors = match(module, weights)
    graphdef, state = nnx.split(module)
    flat = dict(nnx.to_flat_state(state))
    # Other threads would not know of it.
    device = jax.config.jax_default_device  # type: ignore[attr-defined]

    def read(item: tuple[str, Entry]) -> tuple[Path, jax.Array]:
        name, entry = item
        array = np.transpose(tensors[name].read(), np.argsort(entry.to_torch))
        with jax.default_device(device):
            return entry.path, jnp.asarray(array, jnp.float32 if float32(name) else dtype)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        for path, array in pool.map(read, table(module).items()):
            flat[path] = flat[path].replace(array)
    release_free_memory()
    return nnx.merge(graphdef, nnx.from_flat_state(list(flat.items())))


def weights_hash(tensors: Mapping[str, LazyTensor]) -> str:
    """16 hex digits of the SHA-256 of names and float32 values, whatever the form of the file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(tensors[name].read(), np.float32).data)
    return digest.hexdigest()[:16]


def _require_finite(tensor: LazyTensor, where: str) -> LazyTensor:
    def read() -> np.ndarray:
        array = tensor.read()
        if not all_finite(array):
            raise LDISError(f"{where} {list(tensor.shape)} holds NaN or infinity; the checkpoint is damaged")
        return array

    return LazyTensor(tensor.shape, tensor.dtype, read)


def initialise(module: Module, seed: int) -> Module:
    """A copy of an abstract module: kernels normal with variance 1 / fan-in, scales 1, biases 0.

    Each is a function of (seed, its name). NumPy draws them: XLA would compile a program for every shape, which takes
    longer than training some small networks.
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
