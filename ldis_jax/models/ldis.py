"""The three networks as one module: ``unet`` is trained, ``vae`` and ``prompt_encoder`` are frozen."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.models.alpha_clip import AlphaCLIP
from ldis_jax.models.config import AutoencoderConfig, PromptEncoderConfig, UNetConfig
from ldis_jax.models.layers import key_stream
from ldis_jax.models.unet import UNet2DConditionModel
from ldis_jax.models.vae import AutoencoderKL

TRAINABLE = nnx.PathContains("unet")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the three networks. Hashable, so that it can key a jit cache."""

    unet: UNetConfig = UNetConfig()
    vae: AutoencoderConfig = AutoencoderConfig()
    prompt_encoder: PromptEncoderConfig = PromptEncoderConfig()


class LDISModel(nnx.Module):
    """Parameters of one LDIS model, in float32 unless cast; layers compute in ``dtype``."""

    def __init__(self, config: ModelConfig, key: jax.Array, *, dtype: DTypeLike = jnp.float32):
        self.config = config
        rngs = key_stream(key)
        self.unet = UNet2DConditionModel(config.unet, dtype=dtype, rngs=rngs)
        self.vae = AutoencoderKL(config.vae, dtype=dtype, rngs=rngs)
        self.prompt_encoder = AlphaCLIP(config.prompt_encoder, dtype=dtype, rngs=rngs)

    @classmethod
    def abstract(cls, config: ModelConfig, *, dtype: DTypeLike = jnp.float32) -> LDISModel:
        """The model with shapes in place of arrays, to be filled from files; costs no memory."""
        return nnx.eval_shape(lambda: cls(config, jax.random.key(0), dtype=dtype))
