"""The optimizer of the paper's recipe."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict


def learning_rate_schedule(config: ConfigDict, train_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then "constant" (the paper), or "cosine" to a hundredth."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        # With 0 warm-up steps, optax's schedule would stay at 0.
        return optax.warmup_constant_schedule(0.0, peak, warmup) if warmup else optax.constant_schedule(peak)
    start = 0.0 if warmup else peak
    return optax.warmup_cosine_decay_schedule(start, peak, warmup, max(train_steps, warmup + 1), peak / 100)


def make_optimizer(config: ConfigDict, train_steps: int) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW with decoupled weight decay on every parameter, as torch's AdamW does.

    Args:
        config: ``config.optim``.
        train_steps: length of the run, for decaying schedules.
    """
    adamw = optax.adamw(
        learning_rate_schedule(config, train_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    if config.moment_dtype == "bfloat16":
        adamw = bfloat16_moments(adamw)
    # Gradients may come in bfloat16; norms, moments and updates are computed in float32.
    to_float32 = optax.stateless(lambda updates, params: optax.tree.cast(updates, jnp.float32))
    return optax.chain(to_float32, clip_by_global_norm(config.grad_clip), adamw)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """optax's, as a product with one scalar.

    optax divides every value, which XLA does not repeat in each of Adam's updates: it keeps a second copy of all
    gradients, 3.4 GB of SD 1.5's.
    """

    def clip(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        norm = optax.tree.norm(updates)
        scale = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda x: x * scale.astype(x.dtype), updates)

    return optax.stateless(clip)


class Bfloat16Moments(NamedTuple):
    """The state of :func:`bfloat16_moments`."""

    step: jax.Array  # int32 [], updates made
    inner: optax.OptState  # float32 arrays stored as bfloat16


def bfloat16_moments(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Stores the float32 arrays of ``tx``'s state as bfloat16: half the memory; everything is computed in float32.

    They are rounded up or down with the probability that keeps the mean: the second moment changes by (1 - b2) of
    itself a step, less than half of bfloat16's spacing, so that rounding to the nearest would freeze it. The draws are
    a function of (update, leaf, position), whatever the sharding.
    """

    def store(state: optax.OptState, count: jax.Array) -> Bfloat16Moments:
        leaves, treedef = jax.tree.flatten(state)
        stored = [
            round_stochastically(x, count * len(leaves) + i) if x.dtype == jnp.float32 and x.ndim else x
            for i, x in enumerate(leaves)
        ]
        return Bfloat16Moments(count, jax.tree.unflatten(treedef, stored))

    def init(params: optax.Params) -> Bfloat16Moments:
        return store(tx.init(params), jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: Bfloat16Moments, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Bfloat16Moments]:
        inner = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, state.inner)
        updates, inner = tx.update(updates, inner, params)
        return updates, store(inner, state.step + 1)

    return optax.GradientTransformation(init, update)


def round_stochastically(x: jax.Array, seed: jax.Array) -> jax.Array:
    """Float32 -> bfloat16, up or down with the probability that makes the mean right; what is exact stays exact.

    The draws come from an integer hash of (seed, position): threefry for every moment of SD 1.5 would take XLA minutes
    to compile, and a step longer than the update itself.
    """
    position = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        position = position * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    noise = _mix(position ^ _mix(seed.astype(jnp.uint32))) & np.uint32(0xFFFF)
    # Adding below the bits that are cut carries into those that stay with the right probability. As a float32 whose low
    # bits are 0, and not as uint16, so that XLA updates parameters and moments in one pass over memory.
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & np.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that spreads every bit over all others (constants of "lowbias32")."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return x ^ (x >> 16)
