"""Stable Diffusion 1.5 from outside: a diffusers folder, or the single file of the original release."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError, list_names
from ldis_jax.models.config import AnyPromptEncoderConfig, AutoencoderConfig, UNetConfig, VAEConfig
from ldis_jax.support.files import reading
from ldis_jax.tasks import Task
from ldis_jax.weights.model_folder import open_weights, read_json_config, read_schedule, read_vae_config
from ldis_jax.weights.network_files import open_file
from ldis_jax.weights.tensors import LazyTensor, Weights, from_array

# In a single file beside UNet and VAE: the text encoder, the moving average, the noise schedule's buffers.
_UNUSED = re.compile(
    r"(cond_stage_model|conditioner|model_ema|first_stage_model\.loss)\..*|"
    r"(log_one_minus_|sqrt_|sqrt_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(_prev)?|betas|logvar|"
    r"posterior_(variance|log_variance_clipped|mean_coef[12])|global_step|model\.ema_.*"
)
_PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}


class StableDiffusion(NamedTuple):
    """The parts of a Stable Diffusion checkpoint that LDIS uses."""

    unet_config: UNetConfig
    unet: Weights
    vae_config: VAEConfig
    vae: Weights
    schedule: NoiseSchedule


def open_stable_diffusion(
    source: Path, variant: str | None = None, config_folder: Path | None = None, *, with_unet: bool = True
) -> StableDiffusion:
    """Opens a diffusers folder, or an original ``.safetensors`` or ``.ckpt`` file.

    ``config_folder`` describes a single file that is not SD 1.5's: ``unet/``, ``vae/`` and, if need be, ``scheduler/``
    with their configs. Of a folder, the UNet has no tensors unless ``with_unet``.
    """
    if source.is_dir():
        return StableDiffusion(
            read_json_config(UNetConfig, source / "unet"),
            open_weights(source / "unet", "unet", variant) if with_unet else Weights({}, str(source / "unet")),
            read_vae_config(source / "vae"),
            open_weights(source / "vae", "vae", variant),
            _schedule_of(source),
        )
    unet_config, vae_config, schedule = UNetConfig(encoder_hid_dim=None), AutoencoderConfig(), NoiseSchedule()
    if config_folder is not None:
        unet_config = read_json_config(UNetConfig, config_folder / "unet")
        vae_config = read_json_config(AutoencoderConfig, config_folder / "vae")
        schedule = _schedule_of(config_folder)
    unet, vae = _split_single_file(open_file(source), {"unet": unet_config.to_dict(), "vae": vae_config.to_dict()})
    return StableDiffusion(unet_config, unet, vae_config, vae, schedule)


def _schedule_of(folder: Path) -> NoiseSchedule:
    return read_schedule(folder) if (folder / "scheduler").is_dir() else NoiseSchedule()


def _split_single_file(weights: Weights, configs: Mapping[str, dict[str, Any]]) -> list[Weights]:
    """UNet and VAE, under the names that diffusers' own converter gives; it moves tensors, so lazy ones do."""
    rest = {name: tensor for name, tensor in weights.tensors.items() if not _UNUSED.fullmatch(name)}
    parts, wrong = [], []
    with reading(weights.where):
        from diffusers.loaders import single_file_utils

        for network, prefix in _PREFIXES.items():
            part = {name: rest.pop(name) for name in list(rest) if name.startswith(prefix)}
            convert = getattr(single_file_utils, f"convert_ldm_{network}_checkpoint")
            converted = convert(dict(part), configs[network]) if part else {}
            if not part or len(converted) != len(part):  # the converter passes over what it does not know
                wrong.append(f"{len(part)} {prefix}*, of which diffusers' converter uses {len(converted)}")
            parts.append(Weights(converted, weights.where))
    wrong += [f"unused {name} {list(tensor.shape)}" for name, tensor in rest.items()]
    if wrong:
        raise LDISError(f"{weights.where}: not Stable Diffusion 1.5, its VAE included: {list_names(wrong)}")
    return parts


def adapt_unet(
    config: UNetConfig, weights: Weights, task: Task, encoder: AnyPromptEncoderConfig, seed: int
) -> tuple[UNetConfig, Weights]:
    """Adds what a UNet lacks for LDIS: the adapter to the prompt encoder's width, and LDIS-n's input channels.

    Where the config has no ``encoder_hid_proj``, its weight is drawn from ``seed`` as torch draws a Linear's, and its
    bias is 0; a ``conv_in`` for latents alone is widened for LDIS-n with zeros and keeps its bias (the public code
    draws a new one).
    """
    added: dict[str, LazyTensor] = {}
    if config.encoder_hid_dim is None and "encoder_hid_proj.weight" not in weights.tensors:
        rng, bound = np.random.Generator(np.random.Philox(key=[seed, 0])), encoder.width**-0.5
        kernel = rng.uniform(-bound, bound, (config.cross_attention_dim, encoder.width)).astype(np.float32)
        added["encoder_hid_proj.weight"] = from_array(kernel)
        added["encoder_hid_proj.bias"] = from_array(np.zeros(len(kernel), np.float32))
    channels = config.out_channels * (1 if task.name == "ldis1" else 2) + encoder.query_channels
    conv_in = weights.tensors.get("conv_in.weight")
    if conv_in is not None and len(conv_in.shape) == 4 and conv_in.shape[1] == config.out_channels < channels:
        added["conv_in.weight"] = _widened(conv_in, channels)
    config = dataclasses.replace(config, in_channels=channels, encoder_hid_dim=encoder.width)
    return config, weights.overlaid(added)


def _widened(kernel: LazyTensor, channels: int) -> LazyTensor:
    shape = (kernel.shape[0], channels, *kernel.shape[2:])
    padding = ((0, 0), (0, channels - kernel.shape[1]), (0, 0), (0, 0))
    return LazyTensor(shape, kernel.dtype, lambda: np.pad(kernel.read(), padding))
