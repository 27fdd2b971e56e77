"""The prediction program, which the pipeline, the evaluation on a mesh, exported files and cost estimates all run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from flax import nnx

from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import unflatten
from ldis_jax.tasks import Task


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
