"""The three networks as one module: ``unet`` is trained, or a part of it; ``vae`` and ``prompt_encoder`` are frozen."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.models.alpha_clip import AlphaCLIP
from ldis_jax.models.config import (
    AnyPromptEncoderConfig,
    AutoencoderConfig,
    AutoencoderTinyConfig,
    EfficientNetConfig,
    PromptEncoderConfig,
    UNetConfig,
    VAEConfig,
)
from ldis_jax.models.efficientnet import EfficientNetLite0
from ldis_jax.models.layers import key_stream
from ldis_jax.models.lora import LoRA, add_lora
from ldis_jax.models.unet import UNet2DConditionModel
from ldis_jax.models.vae import AutoencoderKL
from ldis_jax.models.vae_tiny import AutoencoderTiny

VAE = AutoencoderKL | AutoencoderTiny
PromptEncoder = AlphaCLIP | EfficientNetLite0

TRAINABLE = nnx.PathContains("unet")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the three networks. Hashable, so that it can key a jit cache."""

    unet: UNetConfig = UNetConfig()
    vae: VAEConfig = AutoencoderConfig()
    prompt_encoder: AnyPromptEncoderConfig = PromptEncoderConfig()

    def to_dict(self) -> dict[str, Any]:
        """The three ``config.json`` by network."""
        return {field.name: getattr(self, field.name).to_dict() for field in dataclasses.fields(self)}


class LDISModel(nnx.Module):
    """Parameters of one LDIS model, in float32 unless cast; layers compute in ``dtype``."""

    def __init__(
        self, config: ModelConfig, key: jax.Array, *, dtype: DTypeLike = jnp.float32, lora: LoRA | None = None
    ):
        self.config = config
        self.lora = lora
        rngs = key_stream(key)
        self.unet = UNet2DConditionModel(config.unet, dtype=dtype, rngs=rngs)
        self.vae = make_vae(config.vae, dtype=dtype, rngs=rngs)
        self.prompt_encoder = make_prompt_encoder(config.prompt_encoder, dtype=dtype, rngs=rngs)
        if lora is not None:
            add_lora(self.unet, lora, dtype=dtype, rngs=rngs)

    @classmethod
    def abstract(
        cls,
        config: ModelConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        lora: LoRA | None = None,
    ) -> LDISModel:
        """The model with shapes in place of arrays, to be filled from files; costs no memory."""
        graphdef, state = _shapes(config, jnp.dtype(dtype), lora)
        return nnx.merge(graphdef, jax.tree.map(lambda x: x.update(dtype=param_dtype), state))

    @property
    def trainable(self) -> nnx.filterlib.Filter:
        """Picks the parameters that training changes: the UNet's, or what :class:`LoRA` says of them."""
        if self.lora is None:
            return TRAINABLE
        return lambda path, value: path[0] == "unet" and self.lora.trains("/".join(map(str, path[1:])))


@functools.lru_cache(maxsize=8)
def _shapes(config: ModelConfig, dtype: jnp.dtype, lora: LoRA | None) -> tuple[nnx.GraphDef, nnx.State]:
    """A model's structure and the shapes of its arrays. Tracing it takes seconds, and a start asks several times."""
    return nnx.split(nnx.eval_shape(lambda: LDISModel(config, jax.random.key(0), dtype=dtype, lora=lora)))


def make_vae(config: VAEConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> VAE:
    """The autoencoder that a config belongs to."""
    if isinstance(config, AutoencoderTinyConfig):
        return AutoencoderTiny(config, dtype=dtype, rngs=rngs)
    return AutoencoderKL(config, dtype=dtype, rngs=rngs)


def make_prompt_encoder(config: AnyPromptEncoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> PromptEncoder:
    """The prompt encoder that a config belongs to."""
    if isinstance(config, EfficientNetConfig):
        return EfficientNetLite0(config, dtype=dtype, rngs=rngs)
    return AlphaCLIP(config, dtype=dtype, rngs=rngs)
