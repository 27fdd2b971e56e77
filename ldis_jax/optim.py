"""The optimizer of the paper's recipe."""

from __future__ import annotations

import optax
from ml_collections import ConfigDict

from ldis_jax.errors import LDISError


def learning_rate_schedule(config: ConfigDict, train_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then "constant" (the paper), or "cosine" to a hundredth."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        # optax's own warm-up of no steps stays at 0 for ever.
        return optax.warmup_constant_schedule(0.0, peak, warmup) if warmup else optax.constant_schedule(peak)
    if config.schedule == "cosine":
        start = 0.0 if warmup else peak
        return optax.warmup_cosine_decay_schedule(start, peak, warmup, max(train_steps, warmup + 1), peak / 100)
    raise LDISError(f"config.optim.schedule={config.schedule!r}: must be 'constant' or 'cosine'")


def make_optimizer(config: ConfigDict, train_steps: int) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW with decoupled weight decay on every parameter, as torch's AdamW does.

    Args:
        config: ``config.optim``.
        train_steps: length of the run, for decaying schedules.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.grad_clip),
        optax.adamw(
            learning_rate_schedule(config, train_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
    )
