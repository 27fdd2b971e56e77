"""Output alignment: binary masks as RGB targets, and decoded RGB back to masks (paper eq. 2-4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# eq. 2 with a = -1, b = 1: foreground (a, b, (a+b)/2), background (b, a, (a+b)/2).
FOREGROUND = (-1.0, 1.0, 0.0)
BACKGROUND = (1.0, -1.0, 0.0)


def encode(mask: jax.Array, query_image: jax.Array, mask_alpha: float) -> jax.Array:
    """The augmented pseudo mask (1 - g) M_v + g I_q (eq. 4); the vanilla M_v (eq. 2) where g is 0.

    Args:
        mask: [B, S, S] in {0, 1, 255}. Only 1 is foreground: 255 (ignored) is background here.
        query_image: [B, S, S, 3] in [-1, 1].
        mask_alpha: g, in [0, 1).

    Returns:
        [B, S, S, 3] in [-1, 1].
    """
    vanilla = jnp.where((mask == 1)[..., None], jnp.array(FOREGROUND), jnp.array(BACKGROUND))
    return (1.0 - mask_alpha) * vanilla + mask_alpha * query_image


def residual(decoded: jax.Array, query_image: jax.Array, mask_alpha: float) -> jax.Array:
    """R = decoded - g I_q, what remains of the pseudo mask when the picture is taken out. [B, S, S, 3]."""
    return decoded - mask_alpha * query_image


def to_mask(r):
    """R [..., 3] (NumPy or JAX) -> bool [...]: object where the green channel exceeds the red one."""
    return r[..., 1] > r[..., 0]


def to_logit(r):
    """R [..., 3] (NumPy or JAX) -> R[1] - R[0], whose sigmoid is the object's probability (eq. 7, one class)."""
    return r[..., 1] - r[..., 0]
