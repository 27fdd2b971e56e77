"""The networks that training starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from ldis_jax.convert.folder import check_sizes, open_weights, read_json_config, read_vae_config
from ldis_jax.convert.rules import fill, initialise
from ldis_jax.convert.stable_diffusion import adapt_unet
from ldis_jax.convert.tensors import Weights
from ldis_jax.models.config import PromptEncoderConfig, UNetConfig
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.tasks import Task

FROZEN = ("vae", "prompt_encoder")


class TrainingInit(NamedTuple):
    """A model, and its frozen networks as the folder has them: in the model they may be rounded to bfloat16."""

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
) -> TrainingInit:
    """The model that training starts from: frozen towers from the folder, and the UNet adapted to the task.

    A folder with UNet weights (SD 1.5, or an LDIS model) gives them, with what LDIS needs added as
    :func:`adapt_unet` does. With ``unet_overrides`` the UNet is drawn from ``seed`` and ``unet/`` is not read.

    Args:
        folder: holds ``vae/``, ``prompt_encoder/`` and, for pretrained weights, ``unet/``.
        task: decides the number of input channels.
        unet_overrides: sizes of a UNet to train from scratch (keys of :class:`UNetConfig`).
        seed: of every fresh parameter.
        dtype: layers compute in it; trained parameters are float32.
        frozen_dtype: frozen parameters are stored in it.

    Raises:
        LDISError: a missing or unreadable file, or weights that do not fit their config or the task.
    """
    folder = Path(folder)
    vae = read_vae_config(folder / "vae")
    tower = read_json_config(PromptEncoderConfig, folder / "prompt_encoder")
    weights = None
    if unet_overrides is None:
        config = read_json_config(UNetConfig, folder / "unet")
        unet, weights = adapt_unet(config, open_weights(folder / "unet", "unet"), task, tower.width, seed)
    else:
        unet = UNetConfig.from_dict(unet_overrides, "unet_overrides")
        channels = vae.latent_channels * (1 if task.name == "ldis1" else 2)
        unet = dataclasses.replace(unet, in_channels=channels, encoder_hid_dim=tower.width)
    model_config = ModelConfig(unet, vae, tower)
    check_sizes(task, model_config, str(folder))

    model = LDISModel.abstract(model_config, dtype=dtype)
    model.unet = initialise(model.unet, seed) if weights is None else fill(model.unet, weights)
    frozen = {name: open_weights(folder / name, name) for name in FROZEN}
    for name, tensors in frozen.items():
        setattr(model, name, fill(getattr(model, name), tensors, dtype=frozen_dtype))
    return TrainingInit(model, frozen)
