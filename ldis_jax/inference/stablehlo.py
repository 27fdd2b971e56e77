"""A prediction as StableHLO, in one safetensors file with its weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.inference.stablehlo_program import exported_program
from ldis_jax.models.ldis import LDISModel
from ldis_jax.support.files import StrPath
from ldis_jax.tasks import Task
from ldis_jax.weights.tensors import LazyTensor, from_array, write_safetensors

PLATFORMS = ("cpu", "tpu", "cuda", "rocm")
# The tensor that holds the program. No weight has this name: theirs are paths.
PROGRAM = "program"


def write_stablehlo(
    path: StrPath,
    task: Task,
    model: LDISModel,
    *,
    num_prompts: int = 1,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "tpu", "cuda"),
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
    if num_prompts < 1 or (batch_size is not None and batch_size < 1):
        raise LDISError(f"num_prompts={num_prompts}, batch_size={batch_size}: must be positive")
    if not platforms or not set(platforms) <= set(PLATFORMS):
        raise LDISError(f"platforms={','.join(platforms)!r}: must be of {', '.join(PLATFORMS)}")
    if importlib.util.find_spec("flatbuffers") is None:
        raise LDISError("export needs the package flatbuffers: pip install -c constraints.txt -e '.[export]'")

    batch = jax.export.symbolic_shape("B")[0] if batch_size is None else batch_size
    program = exported_program(task, model, num_prompts, batch)
    weights = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in program.weights.items()}
    exported = jax.export.export(jax.jit(program.run), platforms=list(dict.fromkeys(platforms)))(
        weights, program.inputs
    )
    code = bytes(exported.serialize())
    tensors = {name: _lazy(x) for name, x in program.weights.items()}
    # What follows it in the file stays aligned.
    tensors[PROGRAM] = from_array(np.frombuffer(code + b"\0" * (-len(code) % 8), np.uint8))
    write_safetensors(path, tensors, metadata={"format": "flax", "ldis_config": json.dumps(task.to_dict())})


def _lazy(array: jax.Array) -> LazyTensor:
    """A tensor that leaves its device when it is written."""
    return LazyTensor(array.shape, array.dtype.name, lambda: np.asarray(array))
