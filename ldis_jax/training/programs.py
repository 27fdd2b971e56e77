"""The programs of a run, training step and prediction, on shapes alone: no weights, no data, no device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldis_jax.errors import LDISError
from ldis_jax.inference.program import compiled_predict
from ldis_jax.models.layers import nothing_computed_again
from ldis_jax.runtime import sharding
from ldis_jax.runtime.flops import count_flops
from ldis_jax.training.run import Run
from ldis_jax.training.step import StepMetrics, make_train_step


class Program(NamedTuple):
    """A compiled function, not compiled yet, and the shapes and places of what it takes."""

    run: Any
    arguments: tuple[Any, ...]

    def trace(self) -> Any:
        """The program, traced."""
        return self.run.trace(*self.arguments)


def train_program(run: Run, batch_size: int) -> Program:
    """A training step: (state, metrics, frozen, batch) -> (state, metrics); ``batch_size`` is over all devices.

    Raises:
        LDISError: the mesh does not divide the batch.
    """
    graphdef, _, frozen = run.shapes
    batch, state = _episodes(run, batch_size, run.options.accumulate), run.state_shapes()
    placed = jax.tree.map(lambda x: x.sharding, state)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    step = make_train_step(run.task, graphdef, run.optimizer, run.config.seed, run.mesh, placed, run.options, run.dtype)
    return Program(step, (state, jax.eval_shape(StepMetrics.empty), frozen, batch))


def predict_program(run: Run, batch_size: int) -> Program:
    """A prediction: (trained, frozen, batch) -> R; arguments and errors as :func:`train_program`'s."""
    graphdef, params, frozen = run.shapes
    batch = _episodes(run, batch_size, 1)
    del batch["query_mask"]
    batch["index"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    whole = sharding.replicated(run.mesh)
    arguments = (_at(params, whole), _at(frozen, whole), _at(batch, sharding.batch_sharding(run.mesh)))
    return Program(compiled_predict(run.task, graphdef, run.mesh), arguments)


PROGRAMS = {"train": train_program, "predict": predict_program}


def mathematical_flops(run: Run, program: str, batch_size: int) -> float:
    """Matrix products and convolutions of a device, each once: work done twice to save memory is no progress."""
    with nothing_computed_again():
        return count_flops(PROGRAMS[program](run, batch_size).trace().jaxpr) / run.mesh.size


def _episodes(run: Run, batch_size: int, parts: int) -> dict[str, jax.ShapeDtypeStruct]:
    if batch_size < 1 or batch_size % (run.mesh.size * parts):
        raise LDISError(f"batch of {batch_size}: must be a multiple of {run.mesh.size} devices x {parts} parts")
    shots, size = run.config.num_shots, run.task.image_size
    return {
        "query_image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32),
        "query_mask": jax.ShapeDtypeStruct((batch_size, size, size), jnp.uint8),
        "prompt_images": jax.ShapeDtypeStruct((batch_size, shots, size, size, 3), jnp.float32),
        "prompt_masks": jax.ShapeDtypeStruct((batch_size, shots, size, size), jnp.uint8),
    }


def _at(arrays: Mapping[str, Any], where: jax.sharding.NamedSharding) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for name, x in arrays.items()}
