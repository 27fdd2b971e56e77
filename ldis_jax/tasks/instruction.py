"""Instruction extraction: prompt images and masks to instruction tokens, with two-stage masking (paper eq. 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ldis_jax.models.efficientnet import EfficientNetLite0
from ldis_jax.models.ldis import PromptEncoder
from ldis_jax.tasks.resize import resize_bilinear, resize_nearest

# Alpha-CLIP's normalisation of its alpha channel.
_ALPHA_MEAN, _ALPHA_STD = 0.5, 0.26
# What a masked token's logit loses. Finite: a row of masked tokens alone attends to them instead of being NaN.
_MASKED = -10000.0

# Which of the two stages are at work: pre-masking, post-masking.
MASKING = {"both": (True, True), "pre": (True, False), "post": (False, True), "none": (False, False)}


def _to_alpha(mask: jax.Array) -> jax.Array:
    return (mask - _ALPHA_MEAN) / _ALPHA_STD


def instruction_tokens(
    prompt_encoder: PromptEncoder, prompt_images: jax.Array, prompt_masks: jax.Array, masking: str = "both"
) -> tuple[jax.Array, jax.Array]:
    """Tokens of K prompts and which of them lie on the object.

    Stage one (pre-masking) feeds the mask to the encoder as its alpha channel; stage two (post-masking) is the returned
    mask, which every cross-attention layer applies through :func:`attention_bias`.

    Args:
        prompt_encoder: the frozen encoder.
        prompt_images: [B, K, S, S, 3] in [-1, 1].
        prompt_masks: [B, K, S, S] in {0, 1, 255}; 255 counts as 0.
        masking: the stages that are at work, a key of :data:`MASKING`. Without pre-masking the encoder is told that all
            of the image is object; without post-masking every token is one of the object.

    Returns:
        (instruction_tokens [B, K*L, D], instruction_mask float32 [B, K*L] in {0, 1}).
    """
    config = prompt_encoder.config
    b, k, s = prompt_masks.shape[:3]
    images = resize_bilinear(prompt_images.reshape(b * k, s, s, 3), config.image_size)
    masks = (prompt_masks == 1).astype(jnp.float32).reshape(b * k, s, s)
    everywhere = jnp.ones_like(masks)
    pre, post = (masks if stage else everywhere for stage in MASKING[masking])
    tokens = prompt_encoder(images, _to_alpha(resize_nearest(pre, config.image_size)))
    token_mask = resize_nearest(post, config.grid)
    return tokens.reshape(b, k * config.num_tokens, -1), token_mask.reshape(b, k * config.num_tokens)


def describe_query(
    prompt_encoder: EfficientNetLite0, query_image: jax.Array, tokens: jax.Array, bias: jax.Array
) -> jax.Array:
    """:meth:`EfficientNetLite0.describe_query` of query images [B, S, S, 3] in [-1, 1]."""
    image = resize_bilinear(query_image, prompt_encoder.config.image_size)
    return prompt_encoder.describe_query(image, tokens, bias)


def null_instruction_tokens(prompt_encoder: PromptEncoder, num_prompts: int) -> jax.Array:
    """The unconditional instruction of LDIS-n: an all-zero image under an all-ones mask, K times. [1, K*L, D]."""
    size = prompt_encoder.config.image_size
    tokens = prompt_encoder(jnp.zeros((1, size, size, 3)), _to_alpha(jnp.ones((1, size, size))))
    return jnp.tile(tokens, (1, num_prompts, 1))


def attention_bias(instruction_mask: jax.Array, num_prompts: jax.Array | None = None, num_tokens: int = 1) -> jax.Array:
    """Additive cross-attention bias: 0 on the object, -10000 off it, ``-inf`` on padding.

    Args:
        instruction_mask: [B, K*L] in {0, 1}.
        num_prompts: int32 [B], how many of the K prompts are real; None where all are. At least 1.
        num_tokens: L, used with ``num_prompts``.

    Returns:
        float32 [B, K*L].
    """
    bias = (1.0 - instruction_mask.astype(jnp.float32)) * _MASKED
    if num_prompts is None:
        return bias
    real = jnp.arange(instruction_mask.shape[1])[None, :] < num_prompts[:, None] * num_tokens
    return jnp.where(real, bias, -jnp.inf)


def repeated_tokens_bias(bias: jax.Array, num_tokens: int) -> jax.Array:
    """The bias that makes L tokens stand for K repetitions of themselves, float32 [B, K*L] -> [B, L].

    Equal keys and values add their weights: exp(bias) of the one is the sum of exp(bias) of its repetitions, of which
    at least one is finite. So the null instruction costs the same whatever K is.
    """
    return jax.nn.logsumexp(bias.reshape(bias.shape[0], -1, num_tokens), axis=1)
