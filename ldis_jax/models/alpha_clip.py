"""Alpha-CLIP's image encoder: CLIP's ViT with a second patch convolution for an alpha channel.

Source: "Alpha-CLIP: A CLIP Model Focusing on Wherever You Want" (CVPR 2024). Attribute names are those of the
public state dict (OpenAI's, with one ``in_proj`` for q, k, v). LDIS reads the tokens of the last block: no final
norm, no projection, class token dropped (paper section "Instruction extraction").
"""

from __future__ import annotations

import functools
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.models.config import PromptEncoderConfig
from ldis_jax.models.convolution import LayerOptions
from ldis_jax.models.layers import attend, layer_norm


def quick_gelu(x: jax.Array) -> jax.Array:
    """OpenAI's x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with q, k and v in one projection."""

    def __init__(self, width: int, heads: int, **layer: Unpack[LayerOptions]):
        self.heads = heads
        self.in_proj = nnx.Linear(width, 3 * width, **layer)
        self.out_proj = nnx.Linear(width, width, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = jnp.split(self.in_proj(x), 3, axis=-1)
        return self.out_proj(attend(q, k, v, self.heads))


class MLP(nnx.Module):
    """Two linear layers around a quick-GELU."""

    def __init__(self, width: int, **layer: Unpack[LayerOptions]):
        self.c_fc = nnx.Linear(width, 4 * width, **layer)
        self.c_proj = nnx.Linear(4 * width, width, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.c_proj(quick_gelu(self.c_fc(x)))


class ResidualAttentionBlock(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, **layer: Unpack[LayerOptions]):
        self.ln_1 = layer_norm(width, **layer)
        self.attn = SelfAttention(width, heads, **layer)
        self.ln_2 = layer_norm(width, **layer)
        self.mlp = MLP(width, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nnx.Module):
    """The stack of blocks."""

    def __init__(self, config: PromptEncoderConfig, **layer: Unpack[LayerOptions]):
        self.resblocks = nnx.List(
            ResidualAttentionBlock(config.width, config.heads, **layer) for _ in range(config.layers)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.resblocks:
            x = block(x)
        return x


class AlphaCLIP(nnx.Module):
    """Image and alpha to patch tokens."""

    def __init__(self, config: PromptEncoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        layer: LayerOptions = {"dtype": dtype, "rngs": rngs}
        width, patch = config.width, (config.patch_size, config.patch_size)
        patches = functools.partial(nnx.Conv, strides=patch, padding="VALID", use_bias=False, **layer)
        self.conv1 = patches(3, width, patch)
        if config.alpha:
            self.conv1_alpha = patches(1, width, patch)
        normal = nnx.initializers.normal(width**-0.5)
        self.class_embedding = nnx.Param(normal(rngs.params(), (width,), jnp.float32))
        self.positional_embedding = nnx.Param(normal(rngs.params(), (config.num_tokens + 1, width), jnp.float32))
        self.ln_pre = layer_norm(width, **layer)
        self.transformer = Transformer(config, **layer)

    @jax.named_scope("prompt_encoder")
    def __call__(self, image: jax.Array, alpha: jax.Array) -> jax.Array:
        """Patch tokens of the last block.

        Args:
            image: [B, P, P, 3] with P = ``config.image_size``; LDIS feeds [-1, 1], not CLIP's mean and std.
            alpha: [B, P, P], (mask - 0.5) / 0.26; ignored where ``config.alpha`` is false.

        Returns:
            [B, L, width], L = (P / patch_size)^2, row-major over the image.
        """
        x = self.conv1(image)
        if self.config.alpha:
            x = x + self.conv1_alpha(alpha[..., None])
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        cls = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([cls, x], axis=1) + self.positional_embedding[...].astype(x.dtype)[None]
        return self.transformer(self.ln_pre(x))[:, 1:]
