"""Classifier-free guidance with two conditions."""

from __future__ import annotations

import jax


def two_scale_guidance(
    prediction: jax.Array,
    prediction_null_prompt: jax.Array,
    prediction_null_both: jax.Array,
    image_guidance_scale: jax.Array | float,
    prompt_guidance_scale: jax.Array | float,
) -> jax.Array:
    """Paper eq. 10: e(0, 0) + s_q (e(z_q, 0) - e(0, 0)) + s_t (e(z_q, t) - e(z_q, 0)).

    Args:
        prediction: e(z_q, t), the UNet with query latents and instruction tokens.
        prediction_null_prompt: e(z_q, 0), with null instruction tokens.
        prediction_null_both: e(0, 0), with zero query latents as well.
        image_guidance_scale: s_q, 1.5 in the paper.
        prompt_guidance_scale: s_t, 7 in the paper.

    Returns:
        The guided prediction, same shape.
    """
    return (
        prediction_null_both
        + image_guidance_scale * (prediction_null_prompt - prediction_null_both)
        + prompt_guidance_scale * (prediction - prediction_null_prompt)
    )
