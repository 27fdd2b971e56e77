"""The model folder: diffusers' names and layout for the UNet and VAE, Alpha-CLIP's for the prompt encoder.

    README.md   ldis_config.json   unet/   vae/   prompt_encoder/   scheduler/

What is written is safetensors and JSON, which cannot execute. What is read may also be one of torch's ``.bin`` files.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
from jax.typing import DTypeLike
from tqdm import tqdm

from ldis_jax.convert.card import CARD, model_card
from ldis_jax.convert.clip import rename_tower
from ldis_jax.convert.network_files import STEMS, open_network, read_json
from ldis_jax.convert.rules import fill, match, to_torch
from ldis_jax.convert.tensors import LazyTensor, Weights, cast, write_safetensors
from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.files import write_json
from ldis_jax.models.config import (
    AutoencoderConfig,
    AutoencoderTinyConfig,
    PromptEncoderConfig,
    UNetConfig,
    VAEConfig,
)
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.tasks import LDISN, Task, task_from_dict

Config = TypeVar("Config", UNetConfig, VAEConfig, PromptEncoderConfig)

TASK_FILE = "ldis_config.json"
NETWORKS = tuple(STEMS)
VAES: dict[str, type[VAEConfig]] = {"AutoencoderKL": AutoencoderConfig, "AutoencoderTiny": AutoencoderTinyConfig}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Writing less than this takes no time worth a progress bar.
_PROGRESS_BYTES = 200_000_000


class LoadedModel(NamedTuple):
    """What a model folder holds."""

    task: Task
    model: LDISModel
    card: str | None = None  # its README.md


# --- Reading ---


def read_json_config(kind: type[Config], folder: Path) -> Config:
    """``config.json`` of one network's folder."""
    path = folder / "config.json"
    return kind.from_dict(read_json(path), str(path))


def read_vae_config(folder: Path) -> VAEConfig:
    """``config.json`` of an autoencoder's folder, which says which class it is; AutoencoderKL where it does not."""
    path = folder / "config.json"
    name = read_json(path).get("_class_name", "AutoencoderKL")
    if name not in VAES:
        raise LDISError(f"{path}: _class_name={name!r}; must be one of {sorted(VAES)}")
    return read_json_config(VAES[name], folder)


def read_model_config(folder: Path) -> ModelConfig:
    """The three networks' sizes."""
    return ModelConfig(
        read_json_config(UNetConfig, folder / "unet"),
        read_vae_config(folder / "vae"),
        read_json_config(PromptEncoderConfig, folder / "prompt_encoder"),
    )


def read_task(folder: Path) -> Task:
    """The task, its noise schedule included."""
    path = folder / TASK_FILE
    if not path.is_file() and (folder / "model_index.json").is_file():
        raise LDISError(f"{folder}: a diffusers pipeline, no LDIS model; python -m ldis_jax.convert makes one of it")
    return with_schedule(task_from_dict(read_json(path), str(path)), folder)


def with_schedule(task: Task, folder: Path) -> Task:
    """The task on the noise schedule of ``scheduler/``, which only LDIS-n has a use for."""
    return dataclasses.replace(task, schedule=read_schedule(folder)) if isinstance(task, LDISN) else task


def read_schedule(folder: Path) -> NoiseSchedule:
    """``scheduler/scheduler_config.json``."""
    path = folder / "scheduler" / "scheduler_config.json"
    return NoiseSchedule.from_dict(read_json(path), str(path))


def open_weights(folder: Path, network: str, variant: str | None = None) -> Weights:
    """The tensors in the folder of a "unet", "vae" or "prompt_encoder", under our names."""
    weights = open_network(folder, STEMS[network], variant)
    return weights.rename(_RENAMES[network]) if network in _RENAMES else weights


def read_card(folder: Path) -> str | None:
    """The text of ``README.md``; None where there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _rename_vae(name: str) -> str:
    """Diffusers before 0.15 called the VAE's attention query, key, value and proj_attn."""
    found = re.fullmatch(r"(.*\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{found[1]}.{_OLD_ATTENTION[found[2]]}.{found[3]}" if found else name


_RENAMES = {"vae": _rename_vae, "prompt_encoder": rename_tower}


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


def load_model(folder: str | Path, dtype: DTypeLike = jnp.float32) -> LoadedModel:
    """Reads a model folder; parameters are stored and layers compute in ``dtype``.

    Raises:
        LDISError: a missing or unreadable file, or weights that do not fit their config.
    """
    folder = Path(folder)
    task, config = read_task(folder), read_model_config(folder)
    check_sizes(task, config, str(folder))
    model = LDISModel.abstract(config, dtype=dtype)
    for name in NETWORKS:
        setattr(model, name, fill(getattr(model, name), open_weights(folder / name, name), dtype=dtype))
    return LoadedModel(task, model, read_card(folder))


# --- Writing ---


def save_model(folder: str | Path, task: Task, model: LDISModel, card: str | None = None) -> None:
    """Writes a model folder from networks in memory; see :func:`write_folder`."""
    networks = {name: Weights(to_torch(getattr(model, name)), name) for name in NETWORKS}
    write_folder(folder, task, model.config, networks, card)


def write_folder(
    folder: str | Path,
    task: Task,
    config: ModelConfig,
    networks: Mapping[str, Weights],
    card: str | None = None,
    dtype: str | None = None,
) -> None:
    """Writes a model folder beside its destination and moves it into place when it is whole.

    An existing folder is replaced only if it is a model folder (has ``ldis_config.json``). Tensors are read, checked
    and written one at a time.

    Args:
        folder: the destination.
        task: written as ``ldis_config.json`` and ``scheduler/``.
        config: the networks' sizes.
        networks: the tensors of "unet", "vae" and "prompt_encoder".
        card: ``README.md``; None writes one that says what the task and the sizes tell.
        dtype: of the files; None keeps each tensor's own.

    Raises:
        LDISError: the destination cannot be written, or exists and is something else; weights that are not those of
            the networks.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / TASK_FILE).is_file():
        raise LDISError(f"{folder}: exists and is no model folder; choose another or remove it")
    abstract = LDISModel.abstract(config)
    checked = {name: match(getattr(abstract, name), networks[name]) for name in NETWORKS}
    if dtype is not None:
        checked = {name: {key: cast(t, dtype) for key, t in tensors.items()} for name, tensors in checked.items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _write_contents(staging, task, config, checked, model_card(task, config) if card is None else card)
            _move_into_place(staging, folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    except OSError as error:
        raise LDISError(f"{folder}: cannot be written ({error.strerror or error}); choose another place") from error


def _write_contents(
    folder: Path, task: Task, config: ModelConfig, networks: Mapping[str, Mapping[str, LazyTensor]], card: str
) -> None:
    schedule = task.schedule if isinstance(task, LDISN) else NoiseSchedule()
    write_json(folder / TASK_FILE, task.to_dict())
    write_json(folder / "scheduler" / "scheduler_config.json", schedule.to_dict())
    (folder / CARD).write_text(card, encoding="utf-8")
    total = sum(tensor.nbytes for tensors in networks.values() for tensor in tensors.values())
    with tqdm(desc="write weights", total=total, unit="B", unit_scale=True, disable=total < _PROGRESS_BYTES) as bar:
        for name, tensors in networks.items():
            write_network(folder, name, getattr(config, name), tensors, bar.update)


def _move_into_place(staging: Path, folder: Path) -> None:
    staging.chmod(0o755)
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        folder.rename(old / "model")
        staging.rename(folder)
        shutil.rmtree(old)
    else:
        staging.rename(folder)


def write_network(
    folder: Path,
    network: str,
    config: UNetConfig | VAEConfig | PromptEncoderConfig,
    tensors: Mapping[str, LazyTensor],
    progress: Callable[[int], Any] = lambda _: None,
) -> None:
    """Writes ``config.json`` and weights of "unet", "vae" or "prompt_encoder" into its subfolder."""
    write_json(folder / network / "config.json", config.to_dict())
    write_safetensors(folder / network / f"{STEMS[network][0]}.safetensors", tensors, progress)
