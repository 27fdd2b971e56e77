"""EfficientNet-Lite0 as a prompt encoder: features of an image, the mask beside them, and what in a query is like them.

Source: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019), its Lite variant:
ReLU6, no squeeze-and-excitation. Batch norms are folded into the convolutions. Blocks are numbered as in the public
state dicts. It reads two levels, of 1/16 and 1/32 of the image; small networks that learn little of photographs
themselves lean on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.models.config import EfficientNetConfig
from ldis_jax.models.convolution import LayerOptions, conv

# Sharpness of the similarities, in which a cosine is multiplied by it before it is summed over tokens.
_SHARPNESS = 20.0
# EfficientNet-Lite's normalisation of uint8 values v is (v - 127) / 128.
_OFFSET, _SCALE = 0.5, 127.5 / 128


class _Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM = 32
_FINE = 10  # the last block of 112 channels


class DepthwiseConv(nnx.Module):
    """A square kernel a channel, padded as TensorFlow's "SAME"."""

    def __init__(self, channels: int, kernel: int, stride: int, **layer: Unpack[LayerOptions]):
        self.size, self.stride, self.dtype = kernel, stride, layer["dtype"]
        draw = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(layer["rngs"].params(), (kernel, kernel, 1, channels), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, C]; a sum of shifted images, which XLA fuses on every backend."""
        out = [-(-n // self.stride) for n in x.shape[1:3]]
        pads = [max((m - 1) * self.stride + self.size - n, 0) for m, n in zip(out, x.shape[1:3], strict=True)]
        x = jnp.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)))
        kernel = self.kernel[...].astype(self.dtype)[:, :, 0]
        total = self.bias[...].astype(self.dtype)[None, None, None]
        for i in range(self.size):
            for j in range(self.size):
                rows = slice(i, i + (out[0] - 1) * self.stride + 1, self.stride)
                columns = slice(j, j + (out[1] - 1) * self.stride + 1, self.stride)
                total = total + x[:, rows, columns] * kernel[None, None, None, i, j]
        return total


class InvertedResidual(nnx.Module):
    """Expansion, a depthwise convolution, projection; with a residual where the shape stays."""

    def __init__(self, c_in: int, stage: _Stage, stride: int, **layer: Unpack[LayerOptions]):
        wide = c_in * stage.expand
        if stage.expand > 1:
            self.expand_conv = conv(c_in, wide, 1, **layer)
        self.expands = stage.expand > 1
        self.depthwise_conv = DepthwiseConv(wide, stage.kernel, stride, **layer)
        self.project_conv = conv(wide, stage.channels, 1, **layer)
        self.residual = stride == 1 and c_in == stage.channels

    def __call__(self, x: jax.Array) -> jax.Array:
        h = jax.nn.relu6(self.expand_conv(x)) if self.expands else x
        h = self.project_conv(jax.nn.relu6(self.depthwise_conv(h)))
        return h + x if self.residual else h


def _blocks(**layer: Unpack[LayerOptions]) -> Iterator[InvertedResidual]:
    channels = _STEM
    for stage in _STAGES:
        for i in range(stage.blocks):
            yield InvertedResidual(channels, stage, stage.stride if i == 0 else 1, **layer)
            channels = stage.channels


class EfficientNetLite0(nnx.Module):
    """Image and alpha to tokens; query and prompts to what they have in common."""

    def __init__(self, config: EfficientNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        layer: LayerOptions = {"dtype": dtype, "rngs": rngs}
        self.conv_stem = conv(3, _STEM, 3, 2, ((0, 1), (0, 1)), **layer)
        self.blocks = nnx.List(_blocks(**layer))

    @jax.named_scope("prompt_encoder")
    def __call__(self, image: jax.Array, alpha: jax.Array) -> jax.Array:
        """Tokens on a grid of 1/16 of the image.

        Args:
            image: [B, P, P, 3] in [-1, 1], P = ``config.image_size``.
            alpha: [B, P, P], (mask - 0.5) / 0.26.

        Returns:
            [B, L, width], L = (P / 16)^2, row-major over the image: the two levels' features, each of mean square 1,
            then the mean of alpha over the token's pixels.
        """
        x = jax.nn.relu6(self.conv_stem(image * _SCALE + _OFFSET / 128))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == _FINE:
                fine = x
        grid = self.config.grid
        coarse = jax.image.resize(x, (x.shape[0], grid, grid, x.shape[-1]), "bilinear")
        share = alpha.reshape(alpha.shape[0], grid, 16, grid, 16).mean((2, 4))[..., None]
        tokens = jnp.concatenate([_normalise(fine), _normalise(coarse), share.astype(x.dtype)], axis=-1)
        return tokens.reshape(x.shape[0], grid * grid, -1)

    def describe_query(self, image: jax.Array, prompt_tokens: jax.Array, bias: jax.Array) -> jax.Array:
        """The features of a query that the UNet sees beside its latents.

        Args:
            image: [B, P, P, 3] in [-1, 1].
            prompt_tokens: [B, K*L, width], of calls of this encoder.
            bias: float32 [B, K*L], of attention: ``-inf`` on padding.

        Returns:
            float32 [B, g, g, ``config.query_channels``], g = P / 16: the query's tokens, and for each level and both
            together how much more a place resembles the prompts' objects than what surrounds them, and how much it
            resembles the objects at all.
        """
        tokens = self(image, jnp.zeros(image.shape[:3], image.dtype)).astype(jnp.float32)
        given = prompt_tokens.astype(jnp.float32)
        share = jnp.clip(given[..., -1] * 0.26 + 0.5, 0.0, 1.0)
        log_object = jnp.log(share + 1e-6) + jnp.where(jnp.isneginf(bias), bias, 0.0)
        log_rest = jnp.log(1.0 - share + 1e-6) + jnp.where(jnp.isneginf(bias), bias, 0.0)
        sizes = [jax.nn.logsumexp(log, axis=-1, keepdims=True) for log in (log_object, log_rest)]
        found = []
        fine, coarse = self.config.levels
        for first, last in ((0, fine), (fine, fine + coarse), (0, fine + coarse)):
            a, b = (_normalise(x[..., first:last]) for x in (tokens, given))
            cosine = jnp.einsum("bqd,btd->bqt", a, b) * (_SHARPNESS / (last - first))
            of_object, of_rest = (
                jax.nn.logsumexp(cosine + log[:, None], axis=-1) - 0.5 * size
                for log, size in zip((log_object, log_rest), sizes, strict=True)
            )
            found += [of_object - of_rest, (of_object - 0.5 * sizes[0]) / (0.25 * _SHARPNESS)]
        described = jnp.concatenate([tokens, jnp.stack(found, axis=-1)], axis=-1)
        return described.reshape(tokens.shape[0], self.config.grid, self.config.grid, -1)


def _normalise(x: jax.Array) -> jax.Array:
    """Mean square 1 over channels."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
