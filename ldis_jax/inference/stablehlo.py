"""A prediction as StableHLO, in one safetensors file with its weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.inference.program import prediction
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import Params, flatten
from ldis_jax.support.files import StrPath
from ldis_jax.tasks import PromptInputs, Task, query_keys
from ldis_jax.weights.tensors import LazyTensor, from_array, write_safetensors

PLATFORMS = ("cpu", "tpu", "cuda", "rocm")
# The tensor that holds the program. No weight has this name: theirs are paths.
PROGRAM = "program"


class ExportedProgram(NamedTuple):
    """A prediction with everything decided but weights and images.

    Attributes:
        run: (weights, inputs by name) -> R float32 [B, S, S, 3].
        weights: by path, such as "unet/conv_in/kernel".
        inputs: shapes and types. ``query`` float32 [B, S, S, 3] and ``prompt_images`` float32 [B, K, S, S, 3] in
            [-1, 1]; ``prompt_masks`` uint8 [B, K, S, S] in {0, 1, 255}; ``num_prompts`` int32 [B], how many of the K
            are real, at least 1; and where the task draws noise ``seed`` int32 []: query i draws from (seed, i).
    """

    run: Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], jax.Array]
    weights: Params
    inputs: dict[str, jax.ShapeDtypeStruct]


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


def write_stablehlo(
    path: StrPath, task: Task, model: LDISModel, num_prompts: int, batch_size: int | None, platforms: Sequence[str]
) -> None:
    """Writes a file that JAX alone runs; docs/export.md says how.

    The weights are the program's first argument and not constants in it: a serialised program ends at 2 GB, and
    compilers would fold constants. The tensors are those of the weights, in their layout, and one of bytes,
    :data:`PROGRAM`, which ``jax.export.deserialize`` reads.

    Args:
        path: of the file, ``.safetensors``.
        task: with the options of LDIS-n that the program is to have.
        model: its networks.
        num_prompts: K, the most prompts that a query may have.
        batch_size: B; None leaves it open.
        platforms: what it is to run on, of :data:`PLATFORMS`.

    Raises:
        LDISError: a number that is not positive, an unknown platform, a missing package, a place that cannot be
            written.
    """
    path = Path(path)
    positive = num_prompts >= 1 and (batch_size is None or batch_size >= 1)
    if not positive or not platforms or not set(platforms) <= set(PLATFORMS):
        raise LDISError(
            f"num_prompts={num_prompts}, batch_size={batch_size}, platforms={','.join(platforms)!r}: numbers must be "
            f"positive, and platforms must be of {', '.join(PLATFORMS)}"
        )
    if importlib.util.find_spec("flatbuffers") is None:
        raise LDISError("export needs the package flatbuffers: pip install -c constraints.txt -e '.[export]'")

    batch = jax.export.symbolic_shape("B")[0] if batch_size is None else batch_size
    program = exported_program(task, model, num_prompts, batch)
    weights = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in program.weights.items()}
    export = jax.export.export(jax.jit(program.run), platforms=list(dict.fromkeys(platforms)))
    code = bytes(export(weights, program.inputs).serialize())
    tensors = {name: _lazy(x) for name, x in program.weights.items()}
    # What follows it in the file stays aligned.
    tensors[PROGRAM] = from_array(np.frombuffer(code + b"\0" * (-len(code) % 8), np.uint8))
    write_safetensors(path, tensors, metadata={"format": "flax", "ldis_config": json.dumps(task.to_dict())})


def _lazy(array: jax.Array) -> LazyTensor:
    """A tensor that leaves its device when it is written."""
    return LazyTensor(array.shape, array.dtype.name, lambda: np.asarray(array))
