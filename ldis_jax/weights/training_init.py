"""The networks that training starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from ldis_jax.models.config import AnyPromptEncoderConfig, UNetConfig
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.models.lora import LoRA
from ldis_jax.tasks import Task
from ldis_jax.weights.lora_files import fresh_pairs
from ldis_jax.weights.model_folder import (
    check_sizes,
    open_weights,
    read_json_config,
    read_prompt_encoder_config,
    read_vae_config,
)
from ldis_jax.weights.rules import fill, initialise, table
from ldis_jax.weights.stable_diffusion import adapt_unet
from ldis_jax.weights.tensors import Weights

FROZEN = ("vae", "prompt_encoder")


class TrainingInit(NamedTuple):
    """A model, and its frozen networks as the folder has them: in the model they may be rounded to bfloat16.

    With LoRA, "unet" is among the frozen: the base, with what LDIS adds to it.
    """

    model: LDISModel
    frozen: dict[str, Weights]


def load_training_init(
    folder: str | Path,
    task: Task,
    unet_overrides: Mapping[str, Any] | None = None,
    *,
    seed: int,
    dtype: DTypeLike = jnp.float32,
    frozen_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
) -> TrainingInit:
    """The model that training starts from: frozen networks from the folder, and the UNet adapted to the task.

    Args:
        folder: holds ``vae/``, ``prompt_encoder/`` and, without ``unet_overrides``, ``unet/`` of SD 1.5 or an LDIS
            model, to which :func:`adapt_unet` adds what LDIS needs.
        task: decides the number of input channels.
        unet_overrides: sizes of a UNet that is drawn (keys of :class:`UNetConfig`).
        seed: of every fresh parameter.
        dtype: layers compute in it; trained parameters are float32.
        frozen_dtype: frozen parameters are stored in it, with ``lora`` those of the UNet's base too.
        lora: trains pairs beside the UNet's attention in place of the UNet.
    """
    folder = Path(folder)
    model_config, weights = networks_of_folder(folder, task, unet_overrides, seed)
    model = LDISModel.abstract(model_config, dtype=dtype, lora=lora)
    frozen = {name: open_weights(folder / name, name) for name in FROZEN}
    for name, tensors in frozen.items():
        setattr(model, name, fill(getattr(model, name), tensors, dtype=frozen_dtype))
    if weights is None:
        model.unet = initialise(model.unet, seed)
    elif lora is None:
        model.unet = fill(model.unet, weights)
    else:
        frozen["unet"] = weights
        pairs = fresh_pairs(table(model.unet), lora, seed)
        model.unet = fill(model.unet, weights.overlaid(pairs), dtype=frozen_dtype, float32=lora.trains)
    return TrainingInit(model, frozen)


def networks_of_folder(
    folder: Path, task: Task, unet_overrides: Mapping[str, Any] | None, seed: int = 0
) -> tuple[ModelConfig, Weights | None]:
    """(sizes, the UNet's weights as training starts from them, None where it is drawn); no weight is read yet."""
    vae = read_vae_config(folder / "vae")
    encoder = read_prompt_encoder_config(folder / "prompt_encoder")
    weights = None
    if unet_overrides is None:
        unet, weights = unet_of_folder(folder, task, encoder, seed)
    else:
        unet = UNetConfig.from_dict(unet_overrides, "unet_overrides")
        channels = vae.latent_channels * (1 if task.name == "ldis1" else 2) + encoder.query_channels
        unet = dataclasses.replace(unet, in_channels=channels, encoder_hid_dim=encoder.width)
    config = ModelConfig(unet, vae, encoder)
    check_sizes(task, config, str(folder))
    return config, weights


def unet_of_folder(folder: Path, task: Task, encoder: AnyPromptEncoderConfig, seed: int) -> tuple[UNetConfig, Weights]:
    """``unet/`` of a folder, with what LDIS needs added as :func:`adapt_unet` does."""
    config = read_json_config(UNetConfig, folder / "unet")
    return adapt_unet(config, open_weights(folder / "unet", "unet"), task, encoder, seed)
