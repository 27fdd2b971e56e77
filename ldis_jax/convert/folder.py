"""The model folder: diffusers' names and layout for the UNet and VAE, Alpha-CLIP's for the prompt encoder.

    ldis_config.json   unet/   vae/   prompt_encoder/   scheduler/

Only safetensors and JSON are read: nothing in a folder can execute.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ldis_jax.convert.rules import fill, initialise, to_torch
from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.files import write_json
from ldis_jax.models.alpha_clip import AlphaCLIP
from ldis_jax.models.config import AutoencoderConfig, PromptEncoderConfig, UNetConfig
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.models.unet import UNet2DConditionModel
from ldis_jax.models.vae import AutoencoderKL
from ldis_jax.tasks import LDISN, Task, task_from_dict

Config = TypeVar("Config", UNetConfig, AutoencoderConfig, PromptEncoderConfig)

_DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
_WEIGHTS = {"unet": _DIFFUSERS_FILE, "vae": _DIFFUSERS_FILE, "prompt_encoder": "model.safetensors"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class TensorFile(Mapping[str, np.ndarray]):
    """A safetensors file as a mapping that reads a tensor when it is asked for."""

    def __init__(self, path: Path):
        try:
            self._file = safe_open(path, framework="np")
            self._names = frozenset(self._file.keys())
        except FileNotFoundError:
            raise LDISError(f"{path}: no such file; a model folder needs it") from None
        except (SafetensorError, OSError) as error:
            raise LDISError(f"{path}: not a readable safetensors file ({error})") from None
        self._path = path

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._file.get_tensor(name)
        except (SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise LDISError(f"{self._path}: cannot read tensor {name} ({error})") from None

    def __contains__(self, name: object) -> bool:  # Mapping's own reads the tensor and waits for a KeyError
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; one clear line where it is missing or is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LDISError(f"{path}: no such file; is {path.parent} a model folder?") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LDISError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(values, dict):
        raise LDISError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _rename_vae(name: str) -> str:
    """Diffusers before 0.15 called the VAE's attention query, key, value and proj_attn."""
    match = re.fullmatch(r"(.*\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{match[1]}.{_OLD_ATTENTION[match[2]]}.{match[3]}" if match else name


def _rename_prompt_encoder(name: str) -> str | None:
    """CLIP's final norm and projection are not part of LDIS (method: tokens of the last block, unnormalised)."""
    return None if name in ("ln_post.weight", "ln_post.bias", "proj") else name


def read_model_config(folder: Path) -> ModelConfig:
    """The three networks' sizes."""
    return ModelConfig(
        _read_config(UNetConfig, folder, "unet"),
        _read_config(AutoencoderConfig, folder, "vae"),
        _read_config(PromptEncoderConfig, folder, "prompt_encoder"),
    )


def _read_config(kind: type[Config], folder: Path, name: str) -> Config:
    path = folder / name / "config.json"
    return kind.from_dict(read_json(path), str(path))


def read_task(folder: Path) -> Task:
    """The task, its noise schedule included."""
    path = folder / "ldis_config.json"
    task = task_from_dict(read_json(path), str(path))
    if isinstance(task, LDISN):
        task = dataclasses.replace(task, schedule=_read_schedule(folder))
    return task


def _read_schedule(folder: Path) -> NoiseSchedule:
    path = folder / "scheduler" / "scheduler_config.json"
    return NoiseSchedule.from_dict(read_json(path), str(path))


def _fill_frozen(model: LDISModel, folder: Path, dtype: DTypeLike) -> None:
    vae, tower = folder / "vae" / _WEIGHTS["vae"], folder / "prompt_encoder" / _WEIGHTS["prompt_encoder"]
    model.vae = fill(model.vae, TensorFile(vae), str(vae), dtype=dtype, rename=_rename_vae)
    model.prompt_encoder = fill(
        model.prompt_encoder, TensorFile(tower), str(tower), dtype=dtype, rename=_rename_prompt_encoder
    )


def check_sizes(task: Task, config: ModelConfig, where: str) -> None:
    """Raises :class:`LDISError` where the networks do not fit the task or each other."""
    unet, latent = config.unet, config.vae.latent_channels
    if unet.in_channels != (latent if task.name == "ldis1" else 2 * latent):
        raise LDISError(f"{where}: a UNet of {unet.in_channels} input channels cannot serve task {task.name!r}")
    if unet.out_channels != latent:
        raise LDISError(f"{where}: the UNet paints {unet.out_channels} channels, the VAE has {latent}")
    if (unet.encoder_hid_dim or unet.cross_attention_dim) != config.prompt_encoder.width:
        raise LDISError(f"{where}: the prompt encoder's width {config.prompt_encoder.width} does not fit the UNet")
    multiple = config.vae.downscale * 2 ** (len(unet.block_out_channels) - 1)
    if task.image_size % multiple:
        raise LDISError(f"{where}: image_size {task.image_size} is not a multiple of {multiple}")


class LoadedModel(NamedTuple):
    """What a model folder holds."""

    task: Task
    model: LDISModel


def load_model(folder: str | Path, dtype: DTypeLike = jnp.float32) -> LoadedModel:
    """Reads a model folder; parameters are stored and layers compute in ``dtype``.

    Raises:
        LDISError: a missing or unreadable file, or weights that do not fit their config.
    """
    folder = Path(folder)
    task, config = read_task(folder), read_model_config(folder)
    check_sizes(task, config, str(folder))
    model = LDISModel.abstract(config, dtype=dtype)
    path = folder / "unet" / _WEIGHTS["unet"]
    model.unet = fill(model.unet, TensorFile(path), str(path), dtype=dtype)
    _fill_frozen(model, folder, dtype)
    return LoadedModel(task, model)


def load_training_init(
    folder: str | Path,
    task: Task,
    unet_overrides: Mapping[str, Any] | None = None,
    *,
    seed: int,
    dtype: DTypeLike = jnp.float32,
    frozen_dtype: DTypeLike = jnp.float32,
) -> LDISModel:
    """The model that training starts from: frozen towers from the folder, and the UNet adapted to the task.

    A folder with UNet weights (SD 1.5, or an LDIS model) gives them: a missing ``encoder_hid_proj`` is initialised
    afresh, a 4-channel ``conv_in`` is widened for LDIS-n with zeros, its bias kept (the public code draws a new
    bias). With ``unet_overrides`` the UNet is drawn from ``seed`` and ``unet/`` is not read.

    Args:
        folder: holds ``vae/``, ``prompt_encoder/`` and, for pretrained weights, ``unet/``.
        task: decides the number of input channels.
        unet_overrides: sizes of a UNet to train from scratch (keys of :class:`UNetConfig`).
        seed: of every fresh parameter.
        dtype: layers compute in it; trained parameters are float32.
        frozen_dtype: frozen parameters are stored in it.
    """
    folder = Path(folder)
    unet = (
        _read_config(UNetConfig, folder, "unet")
        if unet_overrides is None
        else UNetConfig.from_dict(unet_overrides, "unet_overrides")
    )
    vae = _read_config(AutoencoderConfig, folder, "vae")
    tower = _read_config(PromptEncoderConfig, folder, "prompt_encoder")
    in_channels = vae.latent_channels * (1 if task.name == "ldis1" else 2)
    unet = dataclasses.replace(unet, in_channels=in_channels, encoder_hid_dim=tower.width)
    config = ModelConfig(unet, vae, tower)
    check_sizes(task, config, str(folder))

    model = LDISModel.abstract(config, dtype=dtype)
    if unet_overrides is not None:
        model.unet = initialise(model.unet, seed)
    else:
        path = folder / "unet" / _WEIGHTS["unet"]
        model.unet = fill(model.unet, _adapt_unet(TensorFile(path), unet, seed), str(path))
    _fill_frozen(model, folder, frozen_dtype)
    return model


def _adapt_unet(tensors: Mapping[str, np.ndarray], config: UNetConfig, seed: int) -> Mapping[str, np.ndarray]:
    """Adds what SD 1.5's UNet lacks for LDIS: the adapter, and LDIS-n's four further input channels."""
    added: dict[str, np.ndarray] = {}
    if "encoder_hid_proj.weight" not in tensors and config.encoder_hid_dim is not None:
        bound = config.encoder_hid_dim**-0.5  # torch's default for a Linear
        shape = (config.cross_attention_dim, config.encoder_hid_dim)
        rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
        added["encoder_hid_proj.weight"] = rng.uniform(-bound, bound, shape).astype(np.float32)
        added["encoder_hid_proj.bias"] = np.zeros(config.cross_attention_dim, np.float32)
    if "conv_in.weight" in tensors:
        conv_in = tensors["conv_in.weight"]
        missing = config.in_channels - conv_in.shape[1]
        if missing > 0:
            added["conv_in.weight"] = np.pad(conv_in, ((0, 0), (0, missing), (0, 0), (0, 0)))
    return _Overlay(tensors, added)


class _Overlay(Mapping[str, np.ndarray]):
    """``added`` on top of ``base``, without reading ``base``."""

    def __init__(self, base: Mapping[str, np.ndarray], added: Mapping[str, np.ndarray]):
        self._base, self._added = base, added

    def __getitem__(self, name: str) -> np.ndarray:
        return self._added[name] if name in self._added else self._base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._base, *self._added)))

    def __len__(self) -> int:
        return len(self._base.keys() | self._added.keys())


def save_model(folder: str | Path, task: Task, model: LDISModel) -> None:
    """Writes a model folder beside its destination and moves it into place when it is whole.

    An existing folder is replaced only if it is a model folder (has ``ldis_config.json``).

    Raises:
        LDISError: the destination exists and is something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "ldis_config.json").is_file():
        raise LDISError(f"{folder}: exists and is no model folder; choose another or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        schedule = task.schedule if isinstance(task, LDISN) else NoiseSchedule()
        write_json(staging / "ldis_config.json", task.to_dict())
        write_json(staging / "scheduler" / "scheduler_config.json", schedule.to_dict())
        for name in _WEIGHTS:
            save_module(staging, name, getattr(model, name))
        staging.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            folder.rename(old / "model")
            staging.rename(folder)
            shutil.rmtree(old)
        else:
            staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def save_module(folder: Path, name: str, module: UNet2DConditionModel | AutoencoderKL | AlphaCLIP) -> None:
    """Writes one network's ``config.json`` and weights into its subfolder ("unet", "vae" or "prompt_encoder")."""
    write_json(folder / name / "config.json", module.config.to_dict())
    save_file(dict(to_torch(module)), folder / name / _WEIGHTS[name], metadata={"format": "pt"})
