"""Random weights that depend on tensor names and shapes alone, so that a golden file need only hold outputs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from ldis_jax.convert import fill, rules
from ldis_jax.models.ldis import LDISModel, ModelConfig

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


class RandomTensors(Mapping[str, np.ndarray]):
    """Torch names -> random tensors, drawn when asked for: SD 1.5 is never in memory twice."""

    def __init__(self, network: str, shapes: Mapping[str, tuple[int, ...]]):
        self._network, self._shapes = network, shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return random_tensor(f"{self._network}.{name}", self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_model(config: ModelConfig) -> LDISModel:
    """A float32 model filled with :func:`random_tensor`."""
    model = LDISModel.abstract(config)
    for network in NETWORKS:
        module = getattr(model, network)
        shapes = {name: entry.shape for name, entry in rules.table(module).items()}
        setattr(model, network, fill(module, RandomTensors(network, shapes), network))
    return model
