"""A prediction as a pure function of arrays: what is written, in whatever format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldis_jax.inference.program import prediction
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import Params, flatten
from ldis_jax.tasks import PromptInputs, Task, query_keys

Inputs = dict[str, jax.ShapeDtypeStruct]


class ExportedProgram(NamedTuple):
    """A prediction with everything decided but weights and pictures.

    Attributes:
        run: (weights, inputs by name) -> R float32 [B, S, S, 3].
        weights: by path, such as "unet/conv_in/kernel".
        inputs: shapes and types. ``query`` float32 [B, S, S, 3] and ``prompt_images`` float32 [B, K, S, S, 3] in
            [-1, 1]; ``prompt_masks`` uint8 [B, K, S, S] in {0, 1, 255}; ``num_prompts`` int32 [B], how many of the K
            are real, at least 1; and where the task draws noise ``seed`` int32 []: query i draws from (seed, i).
    """

    run: Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], jax.Array]
    weights: Params
    inputs: Inputs


def exported_program(task: Task, model: LDISModel, num_prompts: int, batch: Any) -> ExportedProgram:
    """The prediction of a model.

    Args:
        task: with the options of LDIS-n that the program is to have.
        model: its networks.
        num_prompts: K.
        batch: B, an int or one of ``jax.export``'s symbols.
    """
    graphdef, trained, frozen = flatten(model)
    size = task.image_size
    inputs = {
        "query": jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32),
        "prompt_images": jax.ShapeDtypeStruct((batch, num_prompts, size, size, 3), jnp.float32),
        "prompt_masks": jax.ShapeDtypeStruct((batch, num_prompts, size, size), jnp.uint8),
        "num_prompts": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    if task.draws_noise:
        inputs["seed"] = jax.ShapeDtypeStruct((), jnp.int32)

    program = prediction(task, graphdef)

    def run(weights: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array]) -> jax.Array:
        query = inputs["query"]
        prompts = PromptInputs(inputs["prompt_images"], inputs["prompt_masks"], inputs["num_prompts"])
        keys = query_keys(inputs.get("seed", 0), jnp.arange(query.shape[0]))
        return task.residual(program(weights, query, prompts, keys), query)

    return ExportedProgram(run, trained | frozen, inputs)
