"""Two-stage masking around a tower that shows what it is given."""

from __future__ import annotations

import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.tasks import instruction

OBJECT, BACKGROUND = (1 - 0.5) / 0.26, (0 - 0.5) / 0.26


class GlassTower:
    """A 4-pixel tower of 2x2 patches whose token is (upper left pixel's red, its alpha)."""

    config = types.SimpleNamespace(image_size=4, grid=2, num_tokens=4)

    def __call__(self, image: Any, alpha: Any) -> Any:
        tokens = jnp.stack([image[:, ::2, ::2, 0], alpha[:, ::2, ::2]], axis=-1)
        return tokens.reshape(image.shape[0], 4, 2)


TOWER: Any = GlassTower()


def test_instruction_tokens_and_mask_of_several_prompts():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 4, 3)).astype(np.float32)
    masks = np.random.default_rng(1).choice([0, 1, 255], (2, 3, 4, 4))
    tokens, mask = instruction.instruction_tokens(TOWER, jnp.asarray(images), jnp.asarray(masks))
    assert tokens.shape == (2, 12, 2)
    assert mask.shape == (2, 12)
    # Prompt by prompt, each row-major; 255 is no object. The image is passed on as it is, in [-1, 1].
    on_object = (masks == 1)[:, :, ::2, ::2].reshape(2, 12)
    np.testing.assert_array_equal(tokens[..., 0], images[:, :, ::2, ::2, 0].reshape(2, 12))
    np.testing.assert_allclose(tokens[..., 1], np.where(on_object, OBJECT, BACKGROUND), rtol=1e-6)
    np.testing.assert_array_equal(mask, on_object)


def test_instruction_tokens_are_of_prompts_resized_to_the_encoder():
    image = np.zeros((1, 1, 8, 8, 3), np.float32)
    image[..., 0] = np.arange(8)
    mask = np.zeros((1, 1, 8, 8), np.int32)
    mask[..., 4:] = 1
    mask[:, :, 3, 4:] = 255
    tokens, token_mask = instruction.instruction_tokens(TOWER, jnp.asarray(image), jnp.asarray(mask))
    # Bilinear 8 -> 4 without antialiasing takes the mean of pixels 2i and 2i + 1; the patches start at 0 and 2.
    np.testing.assert_allclose(tokens[0, :, 0], [0.5, 4.5, 0.5, 4.5], rtol=1e-6)
    np.testing.assert_array_equal(token_mask[0], [0, 1, 0, 1])


def test_null_instruction_tokens_are_an_empty_image_that_is_all_object():
    tokens = instruction.null_instruction_tokens(TOWER, 3)
    assert tokens.shape == (1, 12, 2)
    np.testing.assert_array_equal(tokens[..., 0], 0)
    np.testing.assert_allclose(tokens[..., 1], OBJECT, rtol=1e-6)


def test_attention_bias():
    mask = jnp.array([[1, 0, 0, 1], [0, 0, 1, 1]])
    np.testing.assert_array_equal(instruction.attention_bias(mask), [[0, -1e4, -1e4, 0], [-1e4, -1e4, 0, 0]])


def test_attention_bias_of_padding_prompts_is_minus_infinity():
    mask = jnp.array([[1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0]])
    bias = instruction.attention_bias(mask, num_prompts=jnp.array([2, 1]), num_tokens=mask.shape[1] // 3)
    inf = np.inf
    np.testing.assert_array_equal(bias, [[0, -1e4, -1e4, 0, -inf, -inf], [-1e4, -1e4, -inf, -inf, -inf, -inf]])


@pytest.mark.parametrize(
    ("masking", "shown", "kept"),
    [("both", True, True), ("pre", True, False), ("post", False, True), ("none", False, False)],
)
def test_instruction_tokens_follow_the_stages_of_masking(masking, shown, kept):
    masks = np.random.default_rng(1).choice([0, 1, 255], (2, 3, 4, 4))
    on_object = (masks == 1)[:, :, ::2, ::2].reshape(2, 12)
    tokens, mask = instruction.instruction_tokens(TOWER, jnp.zeros((2, 3, 4, 4, 3)), jnp.asarray(masks), masking)
    np.testing.assert_allclose(tokens[..., 1], np.where(on_object | (not shown), OBJECT, BACKGROUND), rtol=1e-6)
    np.testing.assert_array_equal(mask, on_object | (not kept))
    # Prompts that are padding stay out, whatever the masking.
    bias = instruction.attention_bias(mask, num_prompts=jnp.array([2, 1]), num_tokens=mask.shape[1] // 3)
    np.testing.assert_array_equal(np.isneginf(bias), np.arange(12) >= np.array([[8], [4]]))
