"""AutoencoderTiny (TAESD): a distilled autoencoder for Stable Diffusion's latents. Names and numerics are diffusers'.

Source: github.com/madebyollin/taesd. Its own latents are *scaled* ones (``scaling_factor`` 1.0 in its file): what
AutoencoderKL's latents are after multiplication by 0.18215. Here it takes and gives AutoencoderKL's unscaled latents
and a factor, so that either can replace the other under the same UNet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.models.config import SD_SCALING_FACTOR, AutoencoderTinyConfig
from ldis_jax.models.convolution import LayerOptions, conv, upsample_nearest
from ldis_jax.models.layers import rematerialised


class ReLU(nnx.Module):
    """Has no parameters; it keeps its place, for the reference numbers its layers."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(x)


class Upsample(nnx.Module):
    """Nearest-neighbour x2."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return upsample_nearest(x)


class AutoencoderTinyBlock(nnx.Module):
    """Three convolutions and a residual connection, then a ReLU."""

    def __init__(self, channels: int, **layer: Unpack[LayerOptions]):
        convolutions = [conv(channels, channels, **layer) for _ in range(3)]
        self.conv = nnx.List([convolutions[0], ReLU(), convolutions[1], ReLU(), convolutions[2]])

    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for module in self.conv:
            h = module(h)
        return nnx.relu(h + x)


class Layers(nnx.Module):
    """A numbered stack."""

    def __init__(self, layers: Iterable[nnx.Module]):
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array, remat: str = "none") -> jax.Array:
        run = rematerialised(remat)
        for module in self.layers:
            x = run(module, x)
        return x


class AutoencoderTiny(nnx.Module):
    """The frozen autoencoder. Its latents are *unscaled*; multiply by :attr:`scaling_factor` for the UNet."""

    def __init__(self, config: AutoencoderTinyConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.encoder = Layers(_encoder_layers(config, dtype=dtype, rngs=rngs))
        self.decoder = Layers(_decoder_layers(config, dtype=dtype, rngs=rngs))

    @property
    def scaling_factor(self) -> float:
        """Scaled latents, which the UNet sees, are this times unscaled ones. Not the file's field of that name."""
        return SD_SCALING_FACTOR

    @jax.named_scope("vae_encoder")
    def encode(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Latents of an image.

        Args:
            image: [B, S, S, 3] in [-1, 1].

        Returns:
            (latents, zeros), float32 [B, s, s, 4] each, s = S / ``config.downscale``, unscaled: mean and standard
            deviation of a posterior that is a point.
        """
        scaled = self.encoder((image + 1.0) / 2.0).astype(jnp.float32) * self.config.scaling_factor
        latents = scaled / self.scaling_factor
        return latents, jnp.zeros_like(latents)

    @jax.named_scope("vae_decoder")
    def decode(self, latents: jax.Array, remat: str = "none") -> jax.Array:
        """Unscaled latents [B, s, s, 4] -> float32 image [B, S, S, 3], about [-1, 1], not clipped.

        ``remat`` is what a backward pass computes again, see :func:`ldis_jax.models.layers.rematerialised`.
        """
        scaled = latents * self.scaling_factor / self.config.scaling_factor
        return self.decoder(jnp.tanh(scaled / 3.0) * 3.0, remat).astype(jnp.float32) * 2.0 - 1.0


def _encoder_layers(config: AutoencoderTinyConfig, **layer: Unpack[LayerOptions]) -> Iterable[nnx.Module]:
    width = config.encoder_block_out_channels[0]  # of all levels
    yield conv(config.in_channels, width, **layer)
    for level, blocks in enumerate(config.num_encoder_blocks):
        if level > 0:
            yield conv(width, width, stride=2, use_bias=False, **layer)
        for _ in range(blocks):
            yield AutoencoderTinyBlock(width, **layer)
    yield conv(width, config.latent_channels, **layer)


def _decoder_layers(config: AutoencoderTinyConfig, **layer: Unpack[LayerOptions]) -> Iterable[nnx.Module]:
    width = config.decoder_block_out_channels[0]  # of all levels
    yield conv(config.latent_channels, width, **layer)
    yield ReLU()
    for level, blocks in enumerate(config.num_decoder_blocks):
        if level > 0:
            yield Upsample()
            yield conv(width, width, use_bias=False, **layer)
        for _ in range(blocks):
            yield AutoencoderTinyBlock(width, **layer)
    yield conv(width, config.out_channels, **layer)
