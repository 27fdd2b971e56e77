"""Convolutions of images [B, H, W, C], each computed in the way that costs least for the same result.

Attribute names are diffusers'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.models import winograd

Padding = tuple[tuple[int, int], tuple[int, int]]
PAD_BOTH: Padding = ((1, 1), (1, 1))
PAD_RIGHT_BELOW: Padding = ((0, 1), (0, 1))

# Where a CPU has better ways than XLA's convolution, and from how many pixels of a batch on Winograd's is the best.
# Fewer are multiplied as patches: there SD 1.5's kernels outweigh its images. Measured by benchmarks/convolution.py.
_MANY_CHANNELS, _MANY_PIXELS = 256, 512


class LayerOptions(TypedDict):
    """Options of every layer: the type that it computes in, and the source of its first parameters."""

    dtype: DTypeLike
    rngs: nnx.Rngs


class Conv(nnx.Conv):
    """A convolution, on a CPU in the way that suits its shape."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """[B, H, W, C_in] -> [B, H', W', C_out]."""
        batch, height, width, _ = x.shape
        if winograd.known_size(batch) * height * width < _MANY_PIXELS:
            way = multiply_patches
        elif height % 2 == width % 2 == 0:
            way = winograd.convolve
        else:
            return super().__call__(x)
        return self.on_cpu(way, super().__call__, x)

    def on_cpu(self, way: Callable[..., jax.Array], otherwise: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
        """``way(x, kernel)``, with the bias, where that suits the layer and the program is for a CPU."""
        plain = tuple(self.kernel_size) == (3, 3) and self.padding == PAD_BOTH and self.strides == 1
        many = min(self.in_features, self.out_features) >= _MANY_CHANNELS
        if not (plain and many and self.dtype == jnp.float32):
            return otherwise(x)

        def run(x: jax.Array) -> jax.Array:
            found = way(x.astype(jnp.float32), self.kernel[...].astype(jnp.float32))
            return found if self.bias is None else found + self.bias[...].astype(jnp.float32)[None, None, None]

        return jax.lax.platform_dependent(x, cpu=run, default=otherwise)


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    padding: Padding | None = None,
    use_bias: bool = True,
    **layer: Unpack[LayerOptions],
) -> Conv:
    """A square convolution; 3x3 kernels pad one pixel a side unless told otherwise."""
    if padding is None:
        padding = PAD_BOTH if kernel == 3 else ((0, 0), (0, 0))
    size = (kernel, kernel)
    return Conv(in_channels, out_channels, size, strides=stride, padding=padding, use_bias=use_bias, **layer)


class Downsample2D(nnx.Module):
    """Strided convolution, /2. The UNet pads one pixel a side, the VAE encoder right and below only."""

    def __init__(self, channels: int, padding: Padding, **layer: Unpack[LayerOptions]):
        self.conv = conv(channels, channels, 3, 2, padding, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Nearest-neighbour x2, then a convolution."""

    def __init__(self, channels: int, **layer: Unpack[LayerOptions]):
        self.conv = conv(channels, channels, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 2H, 2W, C]."""

        def plain(x: jax.Array) -> jax.Array:
            return self.conv(upsample_nearest(x))

        if 4 * winograd.known_size(x.shape[0]) * x.shape[1] * x.shape[2] < _MANY_PIXELS:
            return plain(x)
        return self.conv.on_cpu(winograd.upsample_and_convolve, plain, x)


@jax.custom_vjp
def upsample_nearest(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, 2H, 2W, C], each pixel repeated.

    It reads by index, which the TPU compiler makes part of the convolution that follows; a broadcast is written out
    first and took a tenth of the decoder's predicted time.
    """
    rows, columns = (np.arange(2 * size) // 2 for size in x.shape[1:3])
    return x[:, rows][:, :, columns]


def _upsample_fwd(x: jax.Array) -> tuple[jax.Array, None]:
    return upsample_nearest(x), None


def _upsample_bwd(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    # By hand: an index is transposed to a scatter, which is slow.
    b, h, w, c = gradient.shape
    return (jnp.sum(gradient.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4)),)


upsample_nearest.defvjp(_upsample_fwd, _upsample_bwd)


def multiply_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3, one pixel of padding, as one product: [B, H, W, C] and [3, 3, C, C'] -> [B, H, W, C']."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), *PAD_BOTH, (0, 0)))
    taps = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(taps, axis=-1).reshape(-1, 9 * channels)
    return (patches @ kernel.reshape(9 * channels, -1)).reshape(*x.shape[:3], -1)
