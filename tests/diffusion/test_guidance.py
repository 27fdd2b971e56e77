"""Eq. 10."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ldis_jax.diffusion import two_scale_guidance


def test_two_scale_guidance_is_eq_10():
    full, null_prompt, null_both = jnp.array([5.0]), jnp.array([3.0]), jnp.array([2.0])
    np.testing.assert_allclose(two_scale_guidance(full, null_prompt, null_both, 1.5, 7.0), 2 + 1.5 * 1 + 7 * 2)


def test_two_scale_guidance_by_scales_of_one_is_the_full_prediction():
    full, null_prompt, null_both = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    guided = two_scale_guidance(jnp.asarray(full), jnp.asarray(null_prompt), jnp.asarray(null_both), 1.0, 1.0)
    np.testing.assert_allclose(guided, full, atol=1e-6)
