"""The prediction program, which the pipeline, the evaluation on a mesh, exported files and cost estimates all run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import Params, unflatten
from ldis_jax.runtime import sharding
from ldis_jax.tasks import PromptInputs, Task


def prediction(task: Task, graphdef: nnx.GraphDef[LDISModel]) -> Callable[..., jax.Array]:
    """(params, queries, prompts, keys, **options) -> rendered pseudo masks, a pure function to be compiled.

    Its arguments are the parameters by path name, queries [B, S, S, 3] in [-1, 1], their prompts and random keys [B],
    as for :meth:`Task.render`. R and the mask follow from what it returns, by :meth:`Task.residual`.
    """

    def render(
        params: Mapping[str, jax.Array], queries: jax.Array, prompts: object, keys: jax.Array, **options: object
    ) -> jax.Array:
        return task.render(unflatten(graphdef, params), queries, prompts, keys, **options)  # type: ignore[arg-type]

    return render


def compiled_predict(
    task: Task, graphdef: nnx.GraphDef[LDISModel], mesh: jax.sharding.Mesh
) -> Callable[[Params, Params, Mapping[str, jax.Array]], jax.Array]:
    """The program behind :func:`make_predict`: (trained, frozen, batch with "index") -> R float32 [B, S, S, 3]."""
    program, rows = prediction(task, graphdef), PartitionSpec(sharding.BATCH)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False)
    def predict_rows(params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(0), index))(batch["index"])
        prompts = PromptInputs(batch["prompt_images"], batch["prompt_masks"])
        queries = batch["query_image"]
        return task.residual(program(params, queries, prompts, keys), queries)

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def run(params: Params, frozen: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        # Each device predicts its own queries with parameters that are gathered once, before any loop over steps.
        return predict_rows(params | frozen, batch)

    return run


def make_predict(
    task: Task, graphdef: nnx.GraphDef[LDISModel], frozen: Params, mesh: jax.sharding.Mesh
) -> Callable[[Params, dict[str, np.ndarray]], jax.Array]:
    """The evaluators' predict function, with the trained parameters as its first argument.

    It does not wait for the device. Its result is whole on every device of the mesh, so that every process has it. The
    random key of a query is a function of its index in the evaluation set.
    """
    run = compiled_predict(task, graphdef, mesh)

    def predict(params: Params, batch: dict[str, np.ndarray]) -> jax.Array:
        count = len(batch["index"])
        padded = {name: batch[name] for name in ("query_image", "prompt_images", "prompt_masks", "index")}
        if padding := -count % mesh.size:
            padded = {k: np.concatenate([v, np.repeat(v[-1:], padding, axis=0)]) for k, v in padded.items()}
        result = run(params, frozen, sharding.put(padded, sharding.batch_sharding(mesh)))
        result.copy_to_host_async()
        return result[:count] if padding else result

    return predict
