"""The training step and the prediction of a config, traced on shapes alone: no weights, no data, no device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldis_jax import sharding
from ldis_jax.config import init_folder
from ldis_jax.convert.training_init import networks_of_folder
from ldis_jax.errors import LDISError
from ldis_jax.models.config import UNetConfig
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.models.lora import LoRA
from ldis_jax.optim import make_optimizer
from ldis_jax.predict import compiled_predict
from ldis_jax.tasks import Task, task_from_dict
from ldis_jax.train_state import Params, flatten
from ldis_jax.train_step import StepMetrics, StepOptions, abstract_state, make_train_step

PROGRAMS = ("train", "predict")


def abstract_model(config: ConfigDict, dtype: str = "bfloat16") -> tuple[Task, LDISModel]:
    """Task and networks of a config, of shapes; SD 1.5's and ViT-L/14's where its init folder is not there yet."""
    task = task_from_dict(config.task.to_dict(), "config.task")
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


def trace(config: ConfigDict, program: str, mesh: Mesh, batch_size: int, dtype: str = "bfloat16") -> Any:
    """The program that the trainer or the evaluation would run on this mesh, traced.

    Args:
        config: of a run.
        program: "train" or "predict".
        mesh: of real devices or of a topology's.
        batch_size: over all devices.
        dtype: of compute and of frozen networks.

    Raises:
        LDISError: the config does not fit together, or its batch the mesh.
    """
    options = StepOptions.from_config(config.step)
    parts = options.accumulate if program == "train" else 1
    if batch_size < 1 or batch_size % (mesh.size * parts):
        raise LDISError(f"batch of {batch_size}: must be a multiple of {mesh.size} devices x {parts} parts")
    task, model = abstract_model(config, dtype)
    graphdef, params, frozen = flatten(model)
    cast = {name: jax.ShapeDtypeStruct(x.shape, dtype) for name, x in frozen.items()}
    shots, size = config.num_shots, task.image_size
    batch = {
        "query_image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32),
        "query_mask": jax.ShapeDtypeStruct((batch_size, size, size), jnp.uint8),
        "prompt_images": jax.ShapeDtypeStruct((batch_size, shots, size, size, 3), jnp.float32),
        "prompt_masks": jax.ShapeDtypeStruct((batch_size, shots, size, size), jnp.uint8),
    }
    if program == "predict":
        del batch["query_mask"]
        batch["index"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        whole = sharding.replicated(mesh)
        arguments = (_at(params, whole), _at(cast, whole), _at(batch, sharding.batch_sharding(mesh)))
        return compiled_predict(task, graphdef, mesh).trace(*arguments)  # type: ignore[attr-defined]
    tx = make_optimizer(config.optim, config.train_steps)
    fresh, placed = abstract_state(params, tx, mesh, options)
    state = jax.eval_shape(fresh, params)
    metrics = jax.eval_shape(StepMetrics.empty)
    step = make_train_step(task, graphdef, tx, config.seed, mesh, placed, options)
    return step.trace(state, metrics, cast, batch)  # type: ignore[attr-defined]


def trained_params(config: ConfigDict) -> Params:
    """Shapes of what a run trains, by name."""
    return flatten(abstract_model(config)[1])[1]


def _at(arrays: Mapping[str, Any], where: jax.sharding.NamedSharding) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for name, x in arrays.items()}
