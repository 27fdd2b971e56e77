"""Convolutions of pictures [B, H, W, C], each computed in the way that costs least for the same result.

Attribute names are diffusers'.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

Padding = tuple[tuple[int, int], tuple[int, int]]
PAD_BOTH: Padding = ((1, 1), (1, 1))
PAD_RIGHT_BELOW: Padding = ((0, 1), (0, 1))

# Where a CPU multiplies patches by the kernel faster than it convolves; there are few pixels and large kernels in
# SD 1.5's UNet. Measured by benchmarks/convolution.py.
_SMALL_PICTURE, _MANY_CHANNELS = 16 * 16, 512
# From how many pixels on an upsampled picture is better not made. Below, the sums of the kernel cost more.
_LARGE_PICTURE = 16 * 16


class Conv(nnx.Conv):
    """A convolution, on a CPU as one matrix product where the picture is small and the kernel large."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """[B, H, W, C_in] -> [B, H', W', C_out]."""
        height, width, channels = x.shape[1:]
        plain = tuple(self.kernel_size) == (3, 3) and self.padding == PAD_BOTH and self.strides == 1
        if not plain or height * width > _SMALL_PICTURE or channels < _MANY_CHANNELS:
            return super().__call__(x)
        return jax.lax.platform_dependent(x, cpu=self._multiply_patches, default=super().__call__)

    def _multiply_patches(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        kernel = self.kernel[...].astype(self.dtype).reshape(9 * channels, -1)
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), *PAD_BOTH, (0, 0)))
        taps = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(taps, axis=-1).reshape(-1, 9 * channels)
        product = (patches @ kernel).reshape(batch, height, width, -1)
        return _add_bias(self, product)


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    padding: Padding | None = None,
    *,
    use_bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> Conv:
    """A square convolution; 3x3 kernels pad one pixel a side unless told otherwise."""
    if padding is None:
        padding = PAD_BOTH if kernel == 3 else ((0, 0), (0, 0))
    size = (kernel, kernel)
    return Conv(
        in_channels, out_channels, size, strides=stride, padding=padding, use_bias=use_bias, dtype=dtype, rngs=rngs
    )


class Downsample2D(nnx.Module):
    """Strided convolution, /2. The UNet pads one pixel a side, the VAE encoder right and below only."""

    def __init__(self, channels: int, padding: Padding, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 3, 2, padding, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Nearest-neighbour x2, then a convolution."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 2H, 2W, C]."""
        if x.shape[1] * x.shape[2] < _LARGE_PICTURE:
            return self.conv(upsample_nearest(x))
        return upsample_and_convolve(self.conv, x)


def upsample_nearest(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, 2H, 2W, C], each pixel repeated."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def upsample_and_convolve(layer: nnx.Conv, x: jax.Array) -> jax.Array:
    """``layer(upsample_nearest(x))`` of a 3x3 convolution, in four ninths of the work.

    Of the three rows that a tap reaches in the upsampled picture two are the same, so their weights are added first:
    every second row and column is a 2x2 convolution of the picture itself.
    """
    b, h, w, _ = x.shape
    kernel = layer.kernel[...].astype(jnp.float32)
    x = x.astype(layer.dtype)

    def halves(kernel: jax.Array, axis: int) -> list[jax.Array]:
        """Weights of the even and of the odd results along an axis, two taps each."""
        first, middle, last = jnp.split(kernel, 3, axis)
        pairs = ((first, middle + last), (first + middle, last))
        return [jnp.concatenate(pair, axis) for pair in pairs]

    quarters = [
        jax.lax.conv_general_dilated(
            x, taps.astype(layer.dtype), (1, 1), ((1 - i, i), (1 - j, j)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        for i, by_row in enumerate(halves(kernel, 0))
        for j, taps in enumerate(halves(by_row, 1))
    ]
    found = jnp.stack(quarters, axis=3).reshape(b, h, w, 2, 2, -1)
    found = jnp.swapaxes(found, 2, 3).reshape(b, 2 * h, 2 * w, -1)
    return _add_bias(layer, found)


def _add_bias(layer: nnx.Conv, x: jax.Array) -> jax.Array:
    return x if layer.bias is None else x + layer.bias[...].astype(layer.dtype)[None, None, None]
