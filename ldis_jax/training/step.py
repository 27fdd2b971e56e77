"""One step of training as a compiled function of plain arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import Params, unflatten
from ldis_jax.runtime import sharding
from ldis_jax.runtime.chips import compiler_options
from ldis_jax.tasks import Task

NEVER = np.iinfo(np.int32).max


@flax.struct.dataclass
class FirstNonFinite(clu_metrics.Metric):
    """The first step whose loss or gradient is not finite, as steps taken before it; ``NEVER`` where all are."""

    step: jax.Array  # int32 []

    @classmethod
    def empty(cls) -> FirstNonFinite:
        """No step yet."""
        return cls(step=jnp.array(NEVER, jnp.int32))

    @classmethod
    def from_model_output(cls, *, loss: jax.Array, grad_norm: jax.Array, step: jax.Array, **_: Any) -> FirstNonFinite:
        """The metrics of one step."""
        return cls(step=jnp.where(jnp.isfinite(loss) & jnp.isfinite(grad_norm), NEVER, step))

    def merge(self, other: FirstNonFinite) -> FirstNonFinite:
        """The earlier one."""
        return FirstNonFinite(step=jnp.minimum(self.step, other.step))

    def compute(self) -> jax.Array:
        """Int32 []."""
        return self.step


# Of the steps since the last line of the log; they stay on the device until then.
StepMetrics = clu_metrics.Collection.create(
    loss=clu_metrics.Average.from_output("loss"),
    grad_norm=clu_metrics.Average.from_output("grad_norm"),
    first_non_finite=FirstNonFinite,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state that a step changes, as plain arrays by path: all of a checkpoint but the data iterator."""

    step: jax.Array  # int32 [], steps taken
    params: Params  # those that are trained
    opt_state: optax.OptState
    ema: Params | None = None  # their moving average, where one is kept

    @property
    def best(self) -> Params:
        """The parameters to evaluate and export: the average, where one is kept."""
        return self.params if self.ema is None else self.ema


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Options of a step beyond the model: keys of ``config.step``.

    Attributes:
        accumulate: parts that a batch is computed in, one after the other; the gradient is their mean. The random key
            is a function of (seed, step, part).
        grad_dtype: of the parameters that gradients are taken of, and so of gradients; "bfloat16" halves the sum that
            ``accumulate`` keeps. What devices exchange are bfloat16 gradients in any case if compute is bfloat16, whose
            products make them. Master parameters stay float32.
        ema_decay: d of an average of the parameters, ema <- d ema + (1 - d) params, that is evaluated and exported in
            place of the parameters; 0 keeps none.
    """

    accumulate: int = 1
    grad_dtype: str = "float32"
    ema_decay: float = 0.0


def init_state(
    params: Params, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh, options: StepOptions = StepOptions()
) -> tuple[TrainState, TrainState]:
    """(state before the first step, its shardings), each array where the path rules of ``sharding.py`` put it.

    ``params`` are donated: where they are placed already, their memory becomes the state's.
    """
    placed = jax.tree.map(lambda x: x.sharding, state_shapes(params, tx, mesh, options))
    fresh = jax.jit(functools.partial(_fresh, tx, options), out_shardings=placed, donate_argnums=0)
    return fresh(sharding.put(params, placed.params)), placed


def state_shapes(
    params: Mapping[str, jax.Array | jax.ShapeDtypeStruct],
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    options: StepOptions,
) -> TrainState:
    """The state of :func:`init_state` as shapes, types and shardings; allocates nothing."""

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = next((entry.key for entry in reversed(path) if isinstance(entry, jax.tree_util.DictKey)), "")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding.param_sharding(name, leaf.shape, mesh))

    shapes = jax.eval_shape(functools.partial(_fresh, tx, options), dict(params))
    return jax.tree_util.tree_map_with_path(place, shapes)


def _fresh(tx: optax.GradientTransformation, options: StepOptions, params: Params) -> TrainState:
    ema = jax.tree.map(jnp.copy, params) if options.ema_decay else None
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params), ema=ema)


def make_train_step(
    task: Task,
    graphdef: nnx.GraphDef[LDISModel],
    tx: optax.GradientTransformation,
    seed: int,
    mesh: jax.sharding.Mesh,
    placed: TrainState,
    options: StepOptions = StepOptions(),
    dtype: str = "float32",
) -> Callable[..., tuple[TrainState, clu_metrics.Collection]]:
    """One compiled step: (state, metrics, frozen, batch) -> (state, metrics); the old state's memory is reused.

    The random key is a function of (seed, step); gradients are taken of the trained parameters alone. Each device
    computes with its own samples; ``dtype`` is of compute, in which parameters that several devices share travel.
    """
    shardings = cast(Mapping[str, NamedSharding], placed.params)
    specs = {name: where.spec for name, where in shardings.items()}
    rows, whole = PartitionSpec(sharding.BATCH), PartitionSpec()

    # By hand: what travels, when and in which type, is then no choice of the partitioner's.
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(specs, whole, rows, whole), out_specs=(whole, specs), check_vma=False
    )
    def gradient(
        params: Params, frozen: Params, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, Params]:
        def loss_fn(params: Params, part: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
            params = {name: sharding.gather(value, specs[name], dtype) for name, value in params.items()}
            return task.loss(unflatten(graphdef, params, frozen), part, key)

        grad_fn = jax.value_and_grad(loss_fn)
        if options.accumulate == 1:
            loss, grads = grad_fn(params, batch, key)
        else:
            loss, grads = _accumulate(grad_fn, params, batch, key, options.accumulate)
        means = {name: sharding.mean_gradient(value, specs[name], mesh) for name, value in grads.items()}
        return jax.lax.pmean(loss, sharding.BATCH), means

    def step_fn(
        state: TrainState, metrics: clu_metrics.Collection, frozen: Params, batch: Mapping[str, jax.Array]
    ) -> tuple[TrainState, clu_metrics.Collection]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        params = jax.tree.map(lambda p: p.astype(options.grad_dtype), state.params)
        loss, grads = gradient(params, frozen, batch, key)
        with jax.named_scope("optimizer"):
            grad_norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            new_params = optax.apply_updates(state.params, updates)
            ema = state.ema
            if ema is not None:
                ema = optax.incremental_update(new_params, ema, 1.0 - options.ema_decay)
        new = StepMetrics.single_from_model_output(loss=loss, grad_norm=grad_norm, step=state.step)
        return TrainState(state.step + 1, new_params, opt_state, ema), metrics.merge(new)

    everywhere = sharding.replicated(mesh)
    return jax.jit(
        step_fn,
        donate_argnums=0,
        in_shardings=(placed, everywhere, everywhere, sharding.batch_sharding(mesh)),
        out_shardings=(placed, everywhere),
        compiler_options=compiler_options(mesh.devices.flat[0].device_kind),
    )


def _accumulate(
    grad_fn: Callable[..., tuple[jax.Array, Params]],
    params: Params,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    parts: int,
) -> tuple[jax.Array, Params]:
    """Mean loss and gradient over ``parts`` of this device's samples."""

    def split(x: jax.Array) -> jax.Array:
        # Every parts-th sample: part i of the whole batch is the same on every mesh.
        return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)

    def add(total: tuple[jax.Array, Params], part: tuple[jax.Array, Any]) -> tuple[tuple[jax.Array, Params], None]:
        index, arrays = part
        found = grad_fn(params, arrays, jax.random.fold_in(key, index))
        return jax.tree.map(lambda t, x: t + x / parts, total, found), None

    start = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, start, (jnp.arange(parts), jax.tree.map(split, dict(batch))))
    return total
