"""A model as flat arrays under path names ("unet/conv_in/kernel"), and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from ldis_jax.models.ldis import LDISModel

Params = dict[str, jax.Array]


def flatten(model: LDISModel) -> tuple[nnx.GraphDef[LDISModel], Params, Params]:
    """Splits a model into (structure, trained parameters, frozen parameters)."""

    def to_dict(state: nnx.State[Any, Any]) -> Params:
        return {"/".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}

    graphdef, *states = nnx.split(model, model.trainable, ...)
    trained, frozen = map(to_dict, states)
    return graphdef, trained, frozen


def unflatten(graphdef: nnx.GraphDef[LDISModel], *params: Mapping[str, jax.Array | np.ndarray]) -> LDISModel:
    """The inverse of :func:`flatten`; works under ``jit``."""

    def to_path(name: str) -> tuple[str | int, ...]:
        return tuple(int(part) if part.isdigit() else part for part in name.split("/"))

    flat = [(to_path(name), nnx.Param(value)) for part in params for name, value in part.items()]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))
