"""Output alignment: binary masks as RGB targets, and decoded RGB back to masks (paper eq. 2-4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# eq. 2 with a = -1, b = 1: foreground (a, b, (a+b)/2), background (b, a, (a+b)/2).
FOREGROUND = (-1.0, 1.0, 0.0)
BACKGROUND = (1.0, -1.0, 0.0)

# Eq. 4, and two forms that the paper weighed against it: M_v + noise, and its first version's M_v + I_q / alpha.
TARGETS = ("augmented", "perturbed", "added")


def image_share(mask_alpha: float, target: str = "augmented") -> float:
    """g, how much of the query I_q a target holds, and what R takes away: mask_alpha, 0, or 1 / mask_alpha."""
    return {"augmented": mask_alpha, "perturbed": 0.0, "added": 1.0 / (mask_alpha or 1.0)}[target]


def encode(
    mask: jax.Array,
    query_image: jax.Array,
    mask_alpha: float,
    target: str = "augmented",
    noise: jax.Array | float = 0.0,
) -> jax.Array:
    """The pseudo mask that a network learns to render, made of the vanilla M_v (eq. 2).

    Args:
        mask: [B, S, S] in {0, 1, 255}. Only 1 is foreground: 255 (ignored) is background here.
        query_image: I_q, [B, S, S, 3] in [-1, 1].
        mask_alpha: g of eq. 4, in [0, 1); the divisor alpha >= 1 where ``target`` is "added".
        target: "augmented" is (1 - g) M_v + g I_q (eq. 4), M_v itself where g is 0; "perturbed" is M_v + noise;
            "added" is M_v + I_q / alpha.
        noise: [B, S, S, 3], of "perturbed" alone.

    Returns:
        [B, S, S, 3]; in [-1, 1] where augmented, in [-2, 2] where added, without bounds where perturbed.
    """
    vanilla = jnp.where((mask == 1)[..., None], jnp.array(FOREGROUND), jnp.array(BACKGROUND))
    if target == "perturbed":
        return vanilla + noise
    share = image_share(mask_alpha, target)
    return (1.0 - share if target == "augmented" else 1.0) * vanilla + share * query_image


def to_mask(r):
    """R [..., 3] (NumPy or JAX) -> bool [...]: object where the green channel exceeds the red one."""
    return r[..., 1] > r[..., 0]


def to_logit(r):
    """R [..., 3] (NumPy or JAX) -> R[1] - R[0], whose sigmoid is the object's probability (eq. 7, one class)."""
    return r[..., 1] - r[..., 0]
