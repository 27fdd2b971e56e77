"""Resizing as ``torch.nn.functional.interpolate`` does it, which ``jax.image.resize`` does not.

jax's bilinear antialiases on the way down and its nearest takes pixel centres; LDIS was trained with torch's.
Sizes are static, so both are constants folded into one gather or two small matrix products.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def nearest_indices(size_in: int, size_out: int) -> np.ndarray:
    """Torch's 'nearest': floor(i * in / out), with the product in float32 as torch computes it. int32 [out]."""
    scale = np.float32(size_in / size_out)
    index = np.floor(np.arange(size_out, dtype=np.float32) * scale).astype(np.int32)
    return np.minimum(index, size_in - 1)


def bilinear_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Weights of torch's 'bilinear' (half-pixel centres, no antialiasing). float32 [out, in], rows sum to 1."""
    scale = np.float64(np.float32(size_in / size_out))  # torch: a float32 scale, then one rounding (multiply-add)
    centre = np.maximum(((np.arange(size_out) + 0.5) * scale - 0.5).astype(np.float32), 0)
    low = np.minimum(np.floor(centre).astype(np.int64), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = centre - low
    matrix = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1.0 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix.astype(np.float32)


def resize_nearest(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W] -> [B, size, size]."""
    rows, cols = (nearest_indices(n, size) for n in x.shape[1:3])
    return x[:, rows][:, :, cols]


def resize_bilinear(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, size, size, C], at full float32 precision on every backend."""
    if x.shape[1:3] == (size, size):
        return x
    rows, cols = (jnp.asarray(bilinear_matrix(n, size)) for n in x.shape[1:3])
    return jnp.einsum("oh,bhwc,pw->bopc", rows, x, cols, precision="highest")
