"""Building blocks that more than one network uses. Attribute names are diffusers'.

Shapes: B batch, H/W height and width, C channels, S sequence, N heads, D head dim. All images are NHWC.
Convolutions and linear layers compute in ``dtype``; normalisation statistics and softmax are float32.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Unpack, cast

import jax
import jax.numpy as jnp
from flax import nnx

from ldis_jax.models.convolution import LayerOptions, conv
from ldis_jax.models.winograd import known_size


class _KeyStream:
    def __init__(self, key: jax.Array):
        self.key, self.count = key, 0

    def params(self) -> jax.Array:
        self.count += 1
        return jax.random.fold_in(self.key, self.count)


def key_stream(key: jax.Array) -> nnx.Rngs:
    """The part of ``nnx.Rngs`` that layers call, without its traced counter.

    That counter makes building a network inside ``jax.eval_shape`` quadratic in the number of layers: SD 1.5 took
    32 s, with this 1 s.
    """
    return cast(nnx.Rngs, _KeyStream(key))


class GroupNorm(nnx.GroupNorm):
    """GroupNorm whose mean and variance come from one pass over the input.

    E[x^2] - E[x]^2 cancels in float32 and drifts from torch. About a value that the input has, its first pixel's group
    mean, it does not. A 16-bit input's own rounding is larger than what cancels, so there it is taken about 0: then
    both sums become part of the convolution that makes the input, and cost nothing by the TPU compiler's estimate. Sums
    are taken by channel and then by group: groups of ten channels would lie badly on a TPU's lanes.
    """

    def __call__(self, *parts: jax.Array) -> jax.Array:  # type: ignore[override]
        """[B, ..., C] -> the same; of several arrays, of what they are when concatenated along C."""
        x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        channels, groups = x.shape[-1], self.num_groups
        spatial = tuple(range(1, x.ndim - 1))
        assert self.scale is not None and self.bias is not None

        def group_mean(values: jax.Array) -> jax.Array:  # [..., C], each channel with the mean over its group
            means = jnp.mean(values.reshape(*values.shape[:-1], groups, channels // groups), axis=-1)
            return jnp.repeat(means, channels // groups, axis=-1)

        pivot = jnp.zeros((1, channels), jnp.float32)
        if x.dtype.itemsize > 2:
            first = x[(slice(None), *(0,) * len(spatial))].astype(jnp.float32)
            pivot = jax.lax.stop_gradient(group_mean(first))  # the result does not depend on it
        moments, start = [], 0
        for part in parts:  # each part's sums join the convolution that makes it
            stop = start + part.shape[-1]
            centred = part.astype(jnp.float32) - jnp.expand_dims(pivot[:, start:stop], spatial)
            moments.append(jnp.stack([jnp.mean(centred, axis=spatial), jnp.mean(jnp.square(centred), axis=spatial)]))
            start = stop
        mean, square = group_mean(jnp.concatenate(moments, axis=-1))
        variance = jnp.maximum(square - jnp.square(mean), 0.0)
        scale = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...].astype(jnp.float32)[None]
        shift = self.bias[...].astype(jnp.float32)[None] - mean * scale
        centred = x.astype(jnp.float32) - jnp.expand_dims(pivot, spatial)
        return (centred * jnp.expand_dims(scale, spatial) + jnp.expand_dims(shift, spatial)).astype(self.dtype)


def group_norm(channels: int, groups: int, eps: float, **layer: Unpack[LayerOptions]) -> GroupNorm:
    """The normalisation of every convolutional block."""
    return GroupNorm(channels, groups, epsilon=eps, **layer)


def layer_norm(channels: int, **layer: Unpack[LayerOptions]) -> nnx.LayerNorm:
    """LayerNorm with torch's epsilon (1e-5).

    The variance takes two passes, but of 16-bit values one, as in :class:`GroupNorm` and for the same reasons.
    """
    one_pass = jnp.dtype(layer["dtype"]).itemsize <= 2
    return nnx.LayerNorm(channels, epsilon=1e-5, use_fast_variance=one_pass, **layer)


# Logits of all heads together stay near the compute units up to this many a head and sample; above, they do not. Those
# of one head stay there up to so many of all samples: 24 of SD 1.5's first level.
_MANY_LOGITS, _MOST_LOGITS = 512 * 1024, 24 * 1024 * 1024


@jax.named_scope("attention")
def attend(q: jax.Array, k: jax.Array, v: jax.Array, num_heads: int, bias: jax.Array | None = None) -> jax.Array:
    """Multi-head attention; logits and softmax in float32.

    Where queries times keys are many, the heads follow one another, and parts of a large batch, too; the backward pass
    computes their logits again. So logits never travel to main memory and are never stored. By the TPU compiler's
    estimate heads in turn take two thirds of the time of attention at SD 1.5's first level away (on a CPU it was half),
    and two parts of 32 samples on v5e half of the rest.

    Args:
        q: [B, S, C] queries, heads packed in C.
        k: [B, T, C] keys.
        v: [B, T, C] values.
        num_heads: N, which divides C.
        bias: float32 [B, T], added to every query's logits; ``-inf`` removes a key.

    Returns:
        [B, S, C].
    """
    if num_heads > 1 and (size := q.shape[1] * k.shape[1]) >= _MANY_LOGITS:
        batch = known_size(q.shape[0])
        parts = next(
            n for n in range(1, batch + 1) if batch % n == 0 and (batch // n * size <= _MOST_LOGITS or n == batch)
        )
        if parts == 1:
            return _attend_by_heads(q, k, v, bias, num_heads)

        def attend_part(part: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
            q, k, v, bias = part
            return _attend_by_heads(q, k, v, bias, num_heads)

        arrays = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), (q, k, v, bias))
        return jax.lax.map(attend_part, arrays).reshape(q.shape)
    bias = None if bias is None else bias[:, None, None, :]
    q_heads, k_heads, v_heads = (_split(x, num_heads) for x in (q, k, v))
    return jax.nn.dot_product_attention(q_heads, k_heads, v_heads, bias=bias).reshape(q.shape)


def _split(x: jax.Array, num_heads: int) -> jax.Array:
    return x.reshape(*x.shape[:2], num_heads, -1)


def _attend_by_heads(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, num_heads: int) -> jax.Array:
    """:func:`attend`, the heads one after the other."""

    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
    def attend_head(head: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = head  # [B, S or T, D]
        logits = jnp.einsum("bsd,btd->bst", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(logits if bias is None else logits + bias[:, None], axis=-1).astype(v.dtype)
        return jnp.einsum("bst,btd->bsd", weights, v)

    heads = jax.lax.map(attend_head, tuple(jnp.moveaxis(_split(x, num_heads), 2, 0) for x in (q, k, v)))
    return jnp.moveaxis(heads, 0, 2).reshape(q.shape)


# Calls a module on arrays.
Run = Callable[..., jax.Array]

_POLICIES = {
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
REMAT = ("none", *_POLICIES)
_EVERYTHING_KEPT = contextvars.ContextVar("_EVERYTHING_KEPT", default=False)


@contextlib.contextmanager
def nothing_computed_again() -> Iterator[None]:
    """Turns rematerialisation off for all that is traced inside: each operation occurs once."""
    token = _EVERYTHING_KEPT.set(True)
    try:
        yield
    finally:
        _EVERYTHING_KEPT.reset(token)


def rematerialised(kind: str) -> Run:
    """How a network calls its blocks, or any function of arrays: ``run(module, *arrays)``.

    Args:
        kind: what the backward pass finds stored of a block's inside. "none": everything. "dots": the outputs of linear
            layers; convolutions, norms and attention are computed again. "blocks": nothing, the least memory.
    """

    def run(module: Callable[..., jax.Array], *arrays: jax.Array | None) -> jax.Array:
        return module(*arrays)

    def run_again(module: Callable[..., jax.Array], *arrays: jax.Array | None) -> jax.Array:
        # Closes over the parameters: nnx.remat takes them as arguments, which it refuses where they come from outside
        # the gradient that is taken, as frozen ones do.
        return jax.checkpoint(functools.partial(run, module), policy=_POLICIES[kind])(*arrays)

    return run if kind == "none" or _EVERYTHING_KEPT.get() else run_again


class ResnetBlock2D(nnx.Module):
    """norm-SiLU-conv twice, with an optional time embedding added between, and a residual connection."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        eps: float,
        temb_channels: int | None = None,
        **layer: Unpack[LayerOptions],
    ):
        norm = functools.partial(group_norm, groups=groups, eps=eps, **layer)
        self.norm1 = norm(in_channels)
        self.conv1 = conv(in_channels, out_channels, **layer)
        if temb_channels is not None:
            self.time_emb_proj = nnx.Linear(temb_channels, out_channels, **layer)
        self.norm2 = norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, **layer)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.conv_shortcut = conv(in_channels, out_channels, 1, **layer)

    @jax.named_scope("resnet")
    def __call__(self, x: jax.Array, temb: jax.Array | None = None, skip: jax.Array | None = None) -> jax.Array:
        """[B, H, W, C_in] (and SiLU-activated temb [B, T]) -> [B, H, W, C_out]; C_in is of x and skip together."""
        parts = (x,) if skip is None else (x, skip)
        h = self.conv1(nnx.silu(self.norm1(*parts)))
        if temb is not None:
            h += self.time_emb_proj(temb)[:, None, None, :]
        h = self.conv2(nnx.silu(self.norm2(h)))
        x = jnp.concatenate(parts, axis=-1)
        return h + (self.conv_shortcut(x) if self.has_shortcut else x)
