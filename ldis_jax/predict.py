"""Prediction of batches on a mesh, as evaluators take it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import nnx

from ldis_jax import sharding
from ldis_jax.models.ldis import LDISModel
from ldis_jax.tasks import PromptInputs, Task
from ldis_jax.train_state import Params, unflatten


def make_predict(
    task: Task, graphdef: nnx.GraphDef[LDISModel], frozen: Params, mesh: jax.sharding.Mesh
) -> Callable[[Params, dict[str, np.ndarray]], np.ndarray]:
    """The evaluators' predict function, with the trained parameters as its first argument.

    The random key of a query is a function of its index in the evaluation set.
    """

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def run(params: Params, frozen: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(0), index))(batch["index"])
        prompts = PromptInputs(batch["prompt_images"], batch["prompt_masks"])
        return task.predict(unflatten(graphdef, params, frozen), batch["query_image"], prompts, keys)

    def predict(params: Params, batch: dict[str, np.ndarray]) -> np.ndarray:
        count = len(batch["index"])
        padding = -count % mesh.size
        needed = ("query_image", "prompt_images", "prompt_masks", "index")
        padded = {k: np.concatenate([batch[k], np.repeat(batch[k][-1:], padding, axis=0)]) for k in needed}
        sharded = jax.device_put(padded, sharding.batch_sharding(mesh))
        return np.asarray(run(params, frozen, sharded))[:count]

    return predict
