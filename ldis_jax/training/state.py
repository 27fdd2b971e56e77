"""What a training step changes, as plain arrays under path names ("unet/conv_in/kernel")."""

from __future__ import annotations

import dataclasses

import jax
import optax

from ldis_jax.models.params import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a checkpoint holds besides the data iterator; the frozen towers are not part of it."""

    step: jax.Array  # int32 [], steps taken
    params: Params
    opt_state: optax.OptState
    ema: Params | None = None  # their moving average, where one is kept

    @property
    def best(self) -> Params:
        """The parameters to evaluate and export: the average, where one is kept."""
        return self.params if self.ema is None else self.ema
