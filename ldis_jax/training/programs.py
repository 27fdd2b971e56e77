"""The programs of a run, training step and prediction, on shapes alone: no weights, no data, no device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldis_jax.config import init_folder
from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.inference.mesh_predict import compiled_predict
from ldis_jax.models.config import UNetConfig
from ldis_jax.models.layers import nothing_computed_again
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.models.lora import LoRA
from ldis_jax.models.params import Params, flatten
from ldis_jax.runtime import sharding
from ldis_jax.runtime.flops import count_flops
from ldis_jax.tasks import Task, task_from_dict
from ldis_jax.training.optim import make_optimizer
from ldis_jax.training.step import StepMetrics, StepOptions, abstract_state, make_train_step
from ldis_jax.weights.model_folder import TASK_FILE, read_schedule, read_task, with_schedule
from ldis_jax.weights.training_init import networks_of_folder


def run_task(config: ConfigDict) -> Task:
    """The task of a run, with the noise schedule that its UNet was trained with, if the init folder tells.

    Where ``config.task`` is empty, it is the init folder's.
    """
    folder = init_folder(config.init.folder)
    if not config.task:
        if not (folder / TASK_FILE).is_file():
            raise LDISError(
                f"config.init.folder={config.init.folder}: no LDIS model folder, it has no {TASK_FILE}; "
                f"python -m ldis_jax.convert makes one, and so does training (docs/weights.md)"
            )
        return read_task(folder)
    task = task_from_dict(config.task.to_dict(), "config.task")
    schedule = read_schedule(folder) if (folder / "scheduler").is_dir() else task.schedule
    if kind := config.init.prediction_type:
        if not config.init.unet:
            raise LDISError(
                f"config.init.prediction_type={kind!r}: the UNet of {config.init.folder} was trained with its own; "
                f"leave it empty, or give config.init.unet, which draws a UNet"
            )
        schedule = NoiseSchedule.from_dict(schedule.to_dict() | {"prediction_type": kind}, "config.init")
    return with_schedule(task, schedule)


def compute_dtype(config: ConfigDict, platform: str) -> str:
    """The type of compute: "auto" is bfloat16, but float32 on "cpu", where bfloat16 would be emulated."""
    if config.dtype == "auto":
        return "float32" if platform == "cpu" else "bfloat16"
    return str(config.dtype)


def abstract_model(config: ConfigDict, dtype: str = "bfloat16") -> tuple[Task, LDISModel]:
    """Task and networks of a config, of shapes; SD 1.5's and ViT-L/14's where its init folder is not there yet."""
    task = run_task(config)
    folder, overrides = init_folder(config.init.folder), config.init.unet.to_dict() or None
    if folder.is_dir():
        sizes, _ = networks_of_folder(folder, task, overrides)
    else:
        unet = UNetConfig.from_dict(overrides or {}, "config.init.unet")
        sizes = ModelConfig()
        unet = dataclasses.replace(unet, in_channels=task.unet_in_channels, encoder_hid_dim=sizes.prompt_encoder.width)
        sizes = dataclasses.replace(sizes, unet=unet)
    model = LDISModel.abstract(sizes, dtype=jnp.dtype(dtype), lora=LoRA.from_dict(config.lora.to_dict(), "config.lora"))
    model.unet.remat = config.remat
    return task, model


class Program(NamedTuple):
    """A compiled function, not compiled yet, and the shapes and places of what it takes."""

    run: Any
    arguments: tuple[Any, ...]

    def trace(self) -> Any:
        """The program, traced."""
        return self.run.trace(*self.arguments)


def train_program(config: ConfigDict, mesh: Mesh, batch_size: int, dtype: str = "bfloat16") -> Program:
    """A training step: (state, metrics, frozen, batch) -> (state, metrics).

    Args:
        config: of a run.
        mesh: of real devices or of a topology's.
        batch_size: over all devices.
        dtype: of compute and of frozen networks.

    Raises:
        LDISError: the config does not fit together, or its batch the mesh.
    """
    options = StepOptions.from_config(config.step)
    task, model = abstract_model(config, dtype)
    graphdef, params, frozen = flatten(model)
    batch = _episodes(config, task, mesh, batch_size, options.accumulate)
    tx = make_optimizer(config.optim, config.train_steps)
    fresh, placed = abstract_state(params, tx, mesh, options)
    metrics = jax.eval_shape(StepMetrics.empty)
    step = make_train_step(task, graphdef, tx, config.seed, mesh, placed, options)
    return Program(step, (jax.eval_shape(fresh, params), metrics, _cast(frozen, dtype), batch))


def predict_program(config: ConfigDict, mesh: Mesh, batch_size: int, dtype: str = "bfloat16") -> Program:
    """A prediction: (trained, frozen, batch) -> R; arguments and errors as :func:`train_program`'s."""
    task, model = abstract_model(config, dtype)
    graphdef, params, frozen = flatten(model)
    batch = _episodes(config, task, mesh, batch_size, 1)
    del batch["query_mask"]
    batch["index"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    whole = sharding.replicated(mesh)
    arguments = (_at(params, whole), _at(_cast(frozen, dtype), whole), _at(batch, sharding.batch_sharding(mesh)))
    return Program(compiled_predict(task, graphdef, mesh), arguments)


PROGRAMS = {"train": train_program, "predict": predict_program}


def mathematical_flops(config: ConfigDict, program: str, mesh: Mesh, batch_size: int) -> float:
    """Matrix products and convolutions of a device, each once: work done twice to save memory is no progress."""
    with nothing_computed_again():
        return count_flops(PROGRAMS[program](config, mesh, batch_size).trace().jaxpr) / mesh.size


def trained_params(config: ConfigDict) -> Params:
    """Shapes of what a run trains, by name."""
    return flatten(abstract_model(config)[1])[1]


def _episodes(
    config: ConfigDict, task: Task, mesh: Mesh, batch_size: int, parts: int
) -> dict[str, jax.ShapeDtypeStruct]:
    if batch_size < 1 or batch_size % (mesh.size * parts):
        raise LDISError(f"batch of {batch_size}: must be a multiple of {mesh.size} devices x {parts} parts")
    shots, size = config.num_shots, task.image_size
    return {
        "query_image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32),
        "query_mask": jax.ShapeDtypeStruct((batch_size, size, size), jnp.uint8),
        "prompt_images": jax.ShapeDtypeStruct((batch_size, shots, size, size, 3), jnp.float32),
        "prompt_masks": jax.ShapeDtypeStruct((batch_size, shots, size, size), jnp.uint8),
    }


def _cast(arrays: Mapping[str, Any], dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(x.shape, dtype) for name, x in arrays.items()}


def _at(arrays: Mapping[str, Any], where: jax.sharding.NamedSharding) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for name, x in arrays.items()}
