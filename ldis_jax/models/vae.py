"""Stable Diffusion's AutoencoderKL. Attribute names and numerics are diffusers'."""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.models.config import AutoencoderConfig
from ldis_jax.models.convolution import PAD_RIGHT_BELOW, Downsample2D, LayerOptions, Upsample2D, conv
from ldis_jax.models.layers import ResnetBlock2D, Run, attend, group_norm, rematerialised

_EPS = 1e-6


class Attention(nnx.Module):
    """Single-head self-attention over pixels, with its own norm and residual."""

    def __init__(self, channels: int, groups: int, **layer: Unpack[LayerOptions]):
        self.group_norm = group_norm(channels, groups, _EPS, **layer)
        self.to_q = nnx.Linear(channels, channels, **layer)
        self.to_k = nnx.Linear(channels, channels, **layer)
        self.to_v = nnx.Linear(channels, channels, **layer)
        self.to_out = nnx.List([nnx.Linear(channels, channels, **layer)])

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.group_norm(x).reshape(x.shape[0], -1, x.shape[-1])
        h = self.to_out[0](attend(self.to_q(h), self.to_k(h), self.to_v(h), num_heads=1))
        return x + h.reshape(x.shape)


def _resnets(
    config: AutoencoderConfig, c_in: int, c_out: int, count: int, **layer: Unpack[LayerOptions]
) -> nnx.List[ResnetBlock2D]:
    c_ins = (c_in, *[c_out] * (count - 1))
    return nnx.List(ResnetBlock2D(c, c_out, config.norm_num_groups, _EPS, **layer) for c in c_ins)


class MidBlock(nnx.Module):
    """resnet, attention, resnet."""

    def __init__(self, config: AutoencoderConfig, channels: int, **layer: Unpack[LayerOptions]):
        self.attentions = nnx.List([Attention(channels, config.norm_num_groups, **layer)])
        self.resnets = _resnets(config, channels, channels, 2, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class DownEncoderBlock2D(nnx.Module):
    """Resnets, then a strided convolution unless it is the last level."""

    def __init__(self, config: AutoencoderConfig, c_in: int, c_out: int, last: bool, **layer: Unpack[LayerOptions]):
        self.resnets = _resnets(config, c_in, c_out, config.layers_per_block, **layer)
        self.downsamplers = nnx.List([] if last else [Downsample2D(c_out, PAD_RIGHT_BELOW, **layer)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for module in (*self.resnets, *self.downsamplers):
            x = module(x)
        return x


class UpDecoderBlock2D(nnx.Module):
    """Resnets (one more than the encoder has), then x2 unless it is the last level."""

    def __init__(self, config: AutoencoderConfig, c_in: int, c_out: int, last: bool, **layer: Unpack[LayerOptions]):
        self.resnets = _resnets(config, c_in, c_out, config.layers_per_block + 1, **layer)
        self.upsamplers = nnx.List([] if last else [Upsample2D(c_out, **layer)])

    def __call__(self, x: jax.Array, run: Run) -> jax.Array:
        for module in (*self.resnets, *self.upsamplers):
            x = run(module, x)
        return x


class Encoder(nnx.Module):
    """Image to moments of the posterior."""

    def __init__(self, config: AutoencoderConfig, **layer: Unpack[LayerOptions]):
        channels = config.block_out_channels
        self.conv_in = conv(config.in_channels, channels[0], **layer)
        ins = (channels[0], *channels[:-1])
        self.down_blocks = nnx.List(
            DownEncoderBlock2D(config, c_in, c_out, i == len(channels) - 1, **layer)
            for i, (c_in, c_out) in enumerate(zip(ins, channels, strict=True))
        )
        self.mid_block = MidBlock(config, channels[-1], **layer)
        self.conv_norm_out = group_norm(channels[-1], config.norm_num_groups, _EPS, **layer)
        self.conv_out = conv(channels[-1], 2 * config.latent_channels, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    """Latent to image."""

    def __init__(self, config: AutoencoderConfig, **layer: Unpack[LayerOptions]):
        channels = config.block_out_channels[::-1]
        self.conv_in = conv(config.latent_channels, channels[0], **layer)
        self.mid_block = MidBlock(config, channels[0], **layer)
        ins = (channels[0], *channels[:-1])
        self.up_blocks = nnx.List(
            UpDecoderBlock2D(config, c_in, c_out, i == len(channels) - 1, **layer)
            for i, (c_in, c_out) in enumerate(zip(ins, channels, strict=True))
        )
        self.conv_norm_out = group_norm(channels[-1], config.norm_num_groups, _EPS, **layer)
        self.conv_out = conv(channels[-1], config.out_channels, **layer)

    def __call__(self, z: jax.Array, remat: str = "none") -> jax.Array:
        run = rematerialised(remat)
        x = run(self.mid_block, self.conv_in(z))
        for block in self.up_blocks:
            x = block(x, run)
        return run(self._to_image, x)

    def _to_image(self, x: jax.Array) -> jax.Array:
        return self.conv_out(nnx.silu(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """The frozen autoencoder. Its latents are *unscaled*; multiply by :attr:`scaling_factor` for the UNet."""

    def __init__(self, config: AutoencoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        layer: LayerOptions = {"dtype": dtype, "rngs": rngs}
        latent = config.latent_channels
        self.encoder = Encoder(config, **layer)
        self.decoder = Decoder(config, **layer)
        self.quant_conv = conv(2 * latent, 2 * latent, 1, **layer)
        self.post_quant_conv = conv(latent, latent, 1, **layer)

    @property
    def scaling_factor(self) -> float:
        """Scaled latents, which the UNet sees, are this times unscaled ones."""
        return self.config.scaling_factor

    @jax.named_scope("vae_encoder")
    def encode(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Posterior of an image.

        Args:
            image: [B, S, S, 3] in [-1, 1].

        Returns:
            (mean, std), float32 [B, s, s, 4] each, s = S / ``config.downscale``, unscaled. The mean is the mode.
        """
        moments = self.quant_conv(self.encoder(image)).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.exp(0.5 * jnp.clip(logvar, -30.0, 20.0))

    @jax.named_scope("vae_decoder")
    def decode(self, latents: jax.Array, remat: str = "none") -> jax.Array:
        """Unscaled latents [B, s, s, 4] -> float32 image [B, S, S, 3], about [-1, 1], not clipped.

        ``remat`` is what a backward pass computes again, see :func:`ldis_jax.models.layers.rematerialised`.
        """
        return self.decoder(self.post_quant_conv(latents), remat).astype(jnp.float32)
