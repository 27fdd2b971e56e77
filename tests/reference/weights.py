"""Random weights that depend on tensor names and shapes alone, so that a golden file need only hold outputs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
from flax import nnx

from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.weights import fill, rules, to_torch
from ldis_jax.weights.tensors import LazyTensor, Weights, from_array

NETWORKS = ("unet", "vae", "prompt_encoder")


def generator(name: str) -> np.random.Generator:
    """A stream of its own for every name, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 tensor of the size that trained ones have: no layer saturates, every bias and norm scale matters."""
    normal = generator(name).standard_normal(shape, np.float32)
    if name.endswith(".weight") and len(shape) > 1:
        return normal * np.float32(1 / math.sqrt(math.prod(shape[1:])))
    if name.endswith(".weight"):
        return 1 + np.float32(0.1) * normal
    return normal * np.float32(0.1 if name.endswith(".bias") else 0.5)  # 0.5: CLIP's two embeddings


def random_weights(network: str, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Torch names -> random tensors, drawn when asked for: SD 1.5 is never in memory twice."""

    def lazy(name: str, shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(shape, "float32", lambda: random_tensor(f"{network}.{name}", shape))

    return Weights({name: lazy(name, shape) for name, shape in shapes.items()}, network)


def module_weights(network: str, module: nnx.Module) -> Weights:
    """Random weights for every parameter of a module."""
    return random_weights(network, {name: entry.shape for name, entry in rules.table(module).items()})


def random_model(config: ModelConfig) -> LDISModel:
    """A float32 model filled with :func:`random_tensor`."""
    model = LDISModel.abstract(config)
    for network in NETWORKS:
        module = getattr(model, network)
        setattr(model, network, fill(module, module_weights(network, module)))
    return model


def arrays(module: nnx.Module) -> dict[str, np.ndarray]:
    """A module's parameters under torch's names and in its layout."""
    return {name: tensor.read() for name, tensor in to_torch(module).items()}


def as_weights(tensors: Mapping[str, np.ndarray], where: str = "here") -> Weights:
    """Arrays as what :func:`fill` takes."""
    return Weights({name: from_array(np.asarray(array)) for name, array in tensors.items()}, where)
