"""Attention by heads, norms of parts, and instructions that are read once: the same numbers by shorter ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.models import layers
from ldis_jax.tasks import instruction
from tests.reference import cases


def attention(q, k, v, heads, bias):
    """The definition, in float64."""
    q, k, v = (np.asarray(x, np.float64).reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (q, k, v))
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if bias is not None:
        logits = logits + np.asarray(bias, np.float64)[:, None, None]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    found = weights / weights.sum(-1, keepdims=True) @ v
    return found.swapaxes(1, 2).reshape(found.shape[0], found.shape[2], -1)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    "limits", [(1, 10**9), (1, 30), (10**9, 30)], ids=["head by head", "sample by sample", "all heads"]
)
def test_attend_computes_attention_as_defined(monkeypatch, limits, with_bias):
    for name, limit in zip(("_MANY_LOGITS", "_MOST_LOGITS"), limits, strict=True):
        monkeypatch.setattr(layers, name, limit)
    q, k, v = (3 * cases.normal(name, 2, length, 24) for name, length in (("q", 6), ("k", 5), ("v", 5)))
    bias = np.where(cases.normal("bias", 2, 5) > 0, 0, [[-np.inf], [-1e4]]).astype(np.float32) if with_bias else None
    np.testing.assert_allclose(layers.attend(q, k, v, 3, bias), attention(q, k, v, 3, bias), atol=2e-5)


def test_attend_has_the_same_gradients_by_head_and_together(monkeypatch):
    arrays = [cases.normal(name, 2, length, 24) for name, length in (("q", 6), ("k", 5), ("v", 5))]

    def gradients(limit):
        monkeypatch.setattr(layers, "_MANY_LOGITS", limit)
        return jax.grad(lambda arrays: jnp.sum(jnp.sin(layers.attend(*arrays, 3))))(arrays)

    for by_head, together in zip(gradients(1), gradients(10**9), strict=True):
        np.testing.assert_allclose(by_head, together, atol=1e-5)


def test_attend_does_not_store_logits_of_many_queries_and_keys():
    shapes = jax.ShapeDtypeStruct((1, 1024, 64), jnp.float32)
    loss = jax.grad(lambda q, k, v: jnp.sum(jnp.square(layers.attend(q, k, v, 8))), (0, 1, 2))
    temporary = jax.jit(loss).lower(shapes, shapes, shapes).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 8 * 1024 * 1024 * 4  # of all heads


@pytest.mark.parametrize(("mean", "dtype"), [(30.0, jnp.float32), (3.0, jnp.bfloat16)])
def test_group_norm_of_parts_is_that_of_the_whole(mean, dtype):
    norm = cases.model("ldis1").unet.up_blocks[1].resnets[1].norm1
    x = jnp.asarray(mean + cases.normal("norm", 2, 4, 4, norm.scale.shape[0]), dtype)
    parts = x[..., :5], x[..., 5:]  # the groups straddle
    np.testing.assert_allclose(norm(*parts).astype(float), norm(x).astype(float), atol=1e-5)


@pytest.mark.parametrize("num_prompts", [1, 3])
def test_unet_branches_read_what_they_would_alone(num_prompts):
    """One evaluation of three branches, two of which share the null instruction, is three evaluations."""
    unet = cases.model("ldisn").unet
    latents, timesteps, tokens, _ = cases.unet_inputs("ldisn")
    batch = latents.shape[0]
    tokens = jnp.concatenate([jnp.asarray(tokens) * (1 + i) for i in range(num_prompts)], axis=1)
    length = tokens.shape[1] // num_prompts
    mask = (cases.normal("mask", batch, num_prompts * length) > 0.3).astype(np.float32)
    mask[-1] = 0  # all tokens masked
    real = jnp.array([1] + [num_prompts] * (batch - 1))
    bias = instruction.attention_bias(jnp.asarray(mask), real, mask.shape[1] // num_prompts)
    null = jnp.asarray(cases.normal("null", 1, length, tokens.shape[-1]))
    repeated = jnp.broadcast_to(jnp.tile(null, (1, num_prompts, 1)), tokens.shape)

    @jax.jit
    def evaluate(latents, timesteps, tokens, repeated, null, bias):
        branches = [latents * scale for scale in (1.0, 0.5, -1.0)]
        prompted = unet.instruct(tokens, bias)
        unprompted = unet.instruct(
            null, instruction.repeated_tokens_bias(bias, bias.shape[1] // num_prompts), branches=2
        )
        rows = jnp.stack(branches, axis=1).reshape(-1, *latents.shape[1:])
        together = unet.evaluate(rows, jnp.repeat(timesteps, 3), prompted, unprompted)
        return together, [
            unet(x, timesteps, t, bias) for x, t in zip(branches, (tokens, repeated, repeated), strict=True)
        ]

    together, alone = evaluate(jnp.asarray(latents), jnp.asarray(timesteps), tokens, repeated, null, bias)
    found, expected = together.reshape(batch, 3, *together.shape[1:]), jnp.stack(alone, axis=1)
    np.testing.assert_allclose(found[:-1], expected[:-1], atol=2e-5)
    np.testing.assert_allclose(found[-1], expected[-1], atol=2e-4)  # float32 is 1e-3 apart at logits of -10000
