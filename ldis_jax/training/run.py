"""A run as its config describes it, read once: what training, compiled programs, costs and exports take."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldis_jax.config import check_config, init_folder, to_json
from ldis_jax.datasets.folder_check import check_folder
from ldis_jax.datasets.object_size import suggested_tile
from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.image_folder import chosen_labels
from ldis_jax.input_pipeline.transforms import RESCALE
from ldis_jax.models.config import UNetConfig
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.models.lora import LoRA
from ldis_jax.models.params import Params, flatten
from ldis_jax.tasks import Task, task_from_dict
from ldis_jax.tasks.confidence import NOT_CALIBRATED
from ldis_jax.training.optim import make_optimizer
from ldis_jax.training.step import StepOptions, TrainState, state_shapes
from ldis_jax.weights import load_training_init
from ldis_jax.weights.model_folder import TASK_FILE, read_schedule, read_task, with_schedule
from ldis_jax.weights.rules import weights_hash
from ldis_jax.weights.tensors import Weights
from ldis_jax.weights.training_init import networks_of_folder


@dataclasses.dataclass(frozen=True)
class Run:
    """All that follows from a config, a mesh and a platform, without weights or data.

    Attributes:
        config: as :func:`ldis_jax.config.base_config` describes it.
        task: with the noise schedule that the UNet was trained with.
        networks: their sizes; SD 1.5's and ViT-L/14's where the init folder is not there yet.
        lora: the low-rank pairs that are trained in place of the UNet, if any.
        options: of a step.
        optimizer: of the trained parameters.
        mesh: of real devices or of a topology's.
        dtype: "float32" or "bfloat16", of compute and of frozen networks.
    """

    config: ConfigDict
    task: Task
    networks: ModelConfig
    lora: LoRA | None
    options: StepOptions
    optimizer: optax.GradientTransformation
    mesh: Mesh
    dtype: str

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh, platform: str) -> Run:
        """Reads the config, and the init folder's own files where it is there.

        ``platform``, "cpu", "gpu" or "tpu", decides the type of compute where ``config.dtype`` is "auto".

        Raises:
            LDISError: values out of range, or that do not fit together or the folder.
        """
        check_config(config)
        task, lora = run_task(config), LoRA.from_dict(config.lora.to_dict(), "config.lora")
        if lora is not None and config.init.unet:
            raise LDISError("config.lora: adapts a trained UNet, and config.init.unet draws one; leave one of them out")
        # On a CPU bfloat16 would be emulated.
        dtype = config.dtype if config.dtype != "auto" else "float32" if platform == "cpu" else "bfloat16"
        return cls(
            config,
            task,
            _networks(config, task),
            lora,
            StepOptions(**config.step),
            make_optimizer(config.optim, config.train_steps),
            mesh,
            dtype,
        )

    @functools.cached_property
    def shapes(self) -> tuple[nnx.GraphDef[LDISModel], Params, Params]:
        """(structure, trained, frozen) of the networks, as shapes and types; frozen ones are of ``dtype``."""
        model = LDISModel.abstract(self.networks, dtype=jnp.dtype(self.dtype), lora=self.lora)
        model.unet.remat = self.config.remat
        graphdef, params, frozen = flatten(model)
        cast: dict[str, Any] = {name: jax.ShapeDtypeStruct(x.shape, self.dtype) for name, x in frozen.items()}
        return graphdef, params, cast

    def state_shapes(self) -> TrainState:
        """The training state as shapes, types and shardings; allocates nothing."""
        return state_shapes(self.shapes[1], self.optimizer, self.mesh, self.options)

    def start(self) -> tuple[nnx.GraphDef[LDISModel], Params, Params, dict[str, Weights]]:
        """Reads the weights that training starts from.

        Returns:
            (structure, what is trained in float32, the rest in the type of compute, the frozen networks as their files
            have them).

        Raises:
            LDISError: a missing folder or file, or weights that do not fit the task.
        """
        config, dtype = self.config, jnp.dtype(self.dtype)
        folder = init_folder(config.init.folder)
        if not folder.is_dir():
            raise LDISError(f"config.init.folder={config.init.folder}: no such folder; see docs/weights.md")
        overrides = config.init.unet.to_dict() or None
        init = load_training_init(
            folder, self.task, overrides, seed=config.seed, dtype=dtype, frozen_dtype=dtype, lora=self.lora
        )
        init.model.unet.remat = config.remat
        return *flatten(init.model), init.frozen

    def fingerprint(self, frozen_files: Mapping[str, Weights]) -> dict[str, Any]:
        """The facts that must not change between the starts of one work folder, JSON-able."""
        values = to_json(self.config)
        facts: dict[str, Any] = {"task": self.task.to_dict(), "networks": self.networks.to_dict()}
        facts["frozen"] = {name: weights_hash(weights.tensors) for name, weights in frozen_files.items()}
        if self.task.needs_schedule:
            facts["schedule"] = self.task.schedule.to_dict()
        if self.lora is not None:
            facts["lora"] = dataclasses.asdict(self.lora)
        facts |= {key: values[key] for key in ("seed", "batch_size", "num_shots")}
        facts |= {"sources": values["data"]["sources"], "augment": self.config.data.augment}
        if tuple(self.config.data.rescale) != RESCALE:  # older runs know no other
            facts["rescale"] = values["data"]["rescale"]
        if self.config.data.absent:
            facts["absent"] = self.config.data.absent
        return facts | {"step": dataclasses.asdict(self.options), "moment_dtype": self.config.optim.moment_dtype}


def run_task(config: ConfigDict) -> Task:
    """The task of a run, with the noise schedule that its UNet was trained with, if the init folder tells.

    Where ``config.task`` is empty, it is the init folder's. Of a folder of one's own images, ``config.data.tile`` goes
    before; 0 follows from the masks.
    """
    task = dataclasses.replace(_method(config), confidence=NOT_CALIBRATED)  # the weights change
    folder, tile = config.data.get("folder"), config.data.get("tile")
    if not folder or tile is None:
        return task
    if not tile:
        checked = check_folder(folder)
        tile = suggested_tile(checked, task.image_size, chosen_labels(checked, config.data.classes))
    try:
        return dataclasses.replace(task, tile=tile)
    except LDISError as error:
        raise LDISError(f"config.data.tile: {error}") from None


def _method(config: ConfigDict) -> Task:
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


def _networks(config: ConfigDict, task: Task) -> ModelConfig:
    folder, overrides = init_folder(config.init.folder), config.init.unet.to_dict() or None
    if folder.is_dir():
        return networks_of_folder(folder, task, overrides)[0]
    sizes, unet = ModelConfig(), UNetConfig.from_dict(overrides or {}, "config.init.unet")
    unet = dataclasses.replace(unet, in_channels=task.unet_in_channels, encoder_hid_dim=sizes.prompt_encoder.width)
    return dataclasses.replace(sizes, unet=unet)
