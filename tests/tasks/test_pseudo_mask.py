"""Eq. 2-4 in both directions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.tasks import LDIS1, pseudo_mask

MASK = jnp.array([[[0, 1], [255, 1]]])
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 2, 2, 3)).astype(np.float32))
FG, BG = [-1, 1, 0], [1, -1, 0]
VANILLA = np.array([[[BG, FG], [BG, FG]]], np.float32)  # 255 is background


def test_pseudo_mask_encode_gives_the_vanilla_mask():
    np.testing.assert_array_equal(pseudo_mask.encode(MASK, IMAGE, 0.0), VANILLA)


def test_pseudo_mask_encode_mixes_in_the_query():
    np.testing.assert_allclose(pseudo_mask.encode(MASK, IMAGE, 0.4), 0.6 * VANILLA + 0.4 * np.asarray(IMAGE), atol=1e-6)


@pytest.mark.parametrize("mask_alpha", [0.0, 0.4, 0.9])
def test_pseudo_mask_decoding_inverts_encoding(mask_alpha):
    residual = LDIS1(mask_alpha=mask_alpha).residual(pseudo_mask.encode(MASK, IMAGE, mask_alpha), IMAGE)
    np.testing.assert_allclose(residual, (1 - mask_alpha) * VANILLA, atol=1e-6)
    np.testing.assert_array_equal(pseudo_mask.to_mask(residual), MASK == 1)


def test_pseudo_mask_to_mask_is_where_the_logit_is_positive():
    residual = jnp.array([[0.2, 0.3, 9.0], [0.3, 0.2, 9.0], [0.5, 0.5, 9.0]])  # a tie is background; blue is unused
    np.testing.assert_array_equal(pseudo_mask.to_mask(residual), [True, False, False])
    np.testing.assert_allclose(pseudo_mask.to_logit(residual), [0.1, -0.1, 0.0], atol=1e-7)


def test_pseudo_mask_to_logit_gives_eq_7_for_one_class():
    red, green = 0.3, 1.1
    odds = np.exp(green) / np.exp(red)
    probability = jax.nn.sigmoid(pseudo_mask.to_logit(jnp.array([red, green, 0.0])))
    np.testing.assert_allclose(probability, odds / (1 + odds), rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "mask_alpha", "expected"),
    [
        ("augmented", 0.4, lambda noise: 0.6 * VANILLA + 0.4 * np.asarray(IMAGE)),
        ("perturbed", 0.0, lambda noise: VANILLA + noise),
        ("added", 2.0, lambda noise: VANILLA + np.asarray(IMAGE) / 2),
    ],
)
def test_pseudo_mask_encode_makes_the_targets_and_residual_undoes_them(target, mask_alpha, expected):
    noise = 0.1 * np.random.default_rng(1).standard_normal(IMAGE.shape).astype(np.float32)
    encoded = pseudo_mask.encode(MASK, IMAGE, mask_alpha, target, noise)
    np.testing.assert_allclose(encoded, expected(noise), atol=1e-6)
    task = LDIS1(target=target, mask_alpha=mask_alpha, mask_noise=0.1 * (target == "perturbed"))
    left = task.residual(encoded, IMAGE)
    weight = 0.6 if target == "augmented" else 1.0
    np.testing.assert_allclose(left, weight * VANILLA + (noise if target == "perturbed" else 0), atol=1e-6)
    np.testing.assert_array_equal(pseudo_mask.to_mask(left), MASK == 1)
