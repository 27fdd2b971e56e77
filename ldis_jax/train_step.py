"""One step of training as a compiled function of plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics
from flax import nnx

from ldis_jax import sharding
from ldis_jax.models.ldis import LDISModel
from ldis_jax.tasks import Task
from ldis_jax.train_state import Params, TrainState, unflatten

Step = Callable[..., tuple[TrainState, clu_metrics.Collection]]


# Means over the steps since the last line of the log; they stay on the device until then.
StepMetrics = clu_metrics.Collection.create(
    loss=clu_metrics.Average.from_output("loss"), grad_norm=clu_metrics.Average.from_output("grad_norm")
)


def init_state(
    params: Params, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> tuple[TrainState, TrainState]:
    """(state, its shardings); optimizer moments lie with their parameters."""

    def fresh(params: Params) -> TrainState:
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params))

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
        name = next((entry.key for entry in reversed(path) if isinstance(entry, jax.tree_util.DictKey)), "")
        return sharding.param_sharding(name, leaf.shape, mesh)

    placed = jax.tree_util.tree_map_with_path(place, jax.eval_shape(fresh, params))
    return jax.jit(fresh, out_shardings=placed)(jax.device_put(params, placed.params)), placed


def make_train_step(
    task: Task,
    graphdef: nnx.GraphDef[LDISModel],
    tx: optax.GradientTransformation,
    seed: int,
    mesh: jax.sharding.Mesh,
    placed: TrainState,
) -> Step:
    """One compiled step: (state, metrics, frozen, batch) -> (state, metrics); the old state's memory is reused.

    The random key is a function of (seed, step); gradients are taken of the trained parameters alone.
    """

    def step_fn(
        state: TrainState, metrics: clu_metrics.Collection, frozen: Params, batch: Mapping[str, jax.Array]
    ) -> tuple[TrainState, clu_metrics.Collection]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_fn(params: Params) -> jax.Array:
            return task.loss(unflatten(graphdef, params, frozen), batch, key)[0]

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = StepMetrics.single_from_model_output(loss=loss, grad_norm=optax.tree.norm(grads))
        return TrainState(state.step + 1, params, opt_state), metrics.merge(new)

    whole = sharding.replicated(mesh)
    return jax.jit(
        step_fn,
        donate_argnums=0,
        in_shardings=(placed, whole, whole, sharding.batch_sharding(mesh)),
        out_shardings=(placed, whole),
    )
