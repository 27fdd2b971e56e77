"""The model folder: diffusers' names and layout for the UNet and VAE, Alpha-CLIP's for the prompt encoder.

    README.md   ldis_config.json   unet/   vae/   prompt_encoder/   scheduler/   model_index.json   pipeline.py

What ldis_jax reads of it is safetensors and JSON, which cannot execute, or one of torch's ``.bin`` files.
:mod:`.diffusers_files` says what the last two are for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
from jax.typing import DTypeLike
from tqdm import tqdm

from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError, list_names
from ldis_jax.models.config import (
    AnyPromptEncoderConfig,
    AutoencoderConfig,
    AutoencoderTinyConfig,
    EfficientNetConfig,
    PromptEncoderConfig,
    UNetConfig,
    VAEConfig,
)
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.support.files import StrPath, reading, resolved, write_json, writing
from ldis_jax.support.json_files import read_json
from ldis_jax.tasks import Task, task_from_dict
from ldis_jax.weights.card import CARD, model_card
from ldis_jax.weights.clip import rename_tower
from ldis_jax.weights.diffusers_files import INDEX, PIPELINE, write_diffusers_files
from ldis_jax.weights.lora_files import merge, open_lora
from ldis_jax.weights.network_files import STEMS, open_network
from ldis_jax.weights.rules import fill, match, to_torch
from ldis_jax.weights.tensors import LazyTensor, Weights, cast, write_safetensors

Config = TypeVar("Config", UNetConfig, AutoencoderConfig, AutoencoderTinyConfig, PromptEncoderConfig)

TASK_FILE = "ldis_config.json"
NETWORKS = tuple(STEMS)
OWN_FILES = {TASK_FILE, CARD, INDEX, PIPELINE, "scheduler", *NETWORKS}  # and folders, at the top
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Writing less than this takes no time worth a progress bar.
_PROGRESS_BYTES = 200_000_000


class LoadedModel(NamedTuple):
    """The content of a model folder."""

    task: Task
    model: LDISModel
    card: str | None = None  # its README.md, or what stands for it in a LoRA


# --- Reading ---


def read_json_config(kind: type[Config], folder: Path) -> Config:
    """``config.json`` of one network's folder."""
    path = folder / "config.json"
    return kind.from_dict(read_json(path), str(path))


def read_vae_config(folder: Path) -> VAEConfig:
    """``config.json`` of an autoencoder's folder."""
    path = folder / "config.json"
    return vae_config_from_dict(read_json(path), str(path))


def vae_config_from_dict(values: Mapping[str, Any], where: str) -> VAEConfig:
    """The config of the class that ``_class_name`` says; AutoencoderKL where it is missing."""
    tiny = values.get("_class_name") == AutoencoderTinyConfig.class_name
    return (AutoencoderTinyConfig if tiny else AutoencoderConfig).from_dict(values, where)


def read_prompt_encoder_config(folder: Path) -> AnyPromptEncoderConfig:
    """``config.json`` of a prompt encoder's folder."""
    path = folder / "config.json"
    return prompt_encoder_config_from_dict(read_json(path), str(path))


def prompt_encoder_config_from_dict(values: Mapping[str, Any], where: str) -> AnyPromptEncoderConfig:
    """The config of the class that ``_class_name`` says; (Alpha-)CLIP where it is missing."""
    efficient = values.get("_class_name") == EfficientNetConfig.class_name
    return (EfficientNetConfig if efficient else PromptEncoderConfig).from_dict(values, where)


def read_model_config(folder: Path) -> ModelConfig:
    """The three networks' sizes."""
    return ModelConfig(
        read_json_config(UNetConfig, folder / "unet"),
        read_vae_config(folder / "vae"),
        read_prompt_encoder_config(folder / "prompt_encoder"),
    )


def read_task(folder: Path) -> Task:
    """The task, its noise schedule included."""
    path = folder / TASK_FILE
    diffusers = (folder / INDEX).is_file() and not (folder / "prompt_encoder").is_dir()
    if diffusers and not path.is_file():
        raise LDISError(f"{folder}: a diffusers pipeline, no LDIS model; python -m ldis_jax.convert makes one of it")
    values = read_json(path)
    if "masking" not in values and not read_prompt_encoder_config(folder / "prompt_encoder").alpha:
        values["masking"] = "post"  # all that plain CLIP could do, before there was a key to say so
    return _with_schedule_of(folder, task_from_dict(values, str(path)))


def with_schedule(task: Task, schedule: NoiseSchedule) -> Task:
    """The task on a noise schedule, where it has a use for one; LDIS-1's timestep must lie on it."""
    return dataclasses.replace(task, schedule=schedule) if task.needs_schedule else task


def _with_schedule_of(folder: Path, task: Task) -> Task:
    return with_schedule(task, read_schedule(folder)) if task.needs_schedule else task


def read_schedule(folder: Path) -> NoiseSchedule:
    """``scheduler/scheduler_config.json``."""
    path = folder / "scheduler" / "scheduler_config.json"
    return NoiseSchedule.from_dict(read_json(path), str(path))


def open_weights(folder: Path, network: str, variant: str | None = None) -> Weights:
    """The tensors in the folder of a "unet", "vae" or "prompt_encoder", under our names."""
    weights = open_network(folder, STEMS[network], variant)
    return weights.rename(_RENAMES[network]) if network in _RENAMES else weights


def read_card(folder: Path, lora: StrPath | None = None) -> str | None:
    """The text of ``README.md``, or of the card that a LoRA carries; None where there is none that can be read."""
    if lora is not None:
        return open_lora(Path(lora)).card
    try:
        with reading(folder / CARD):
            return (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except LDISError:
        return None


def _rename_vae(name: str) -> str:
    """Diffusers before 0.15 called the VAE's attention query, key, value and proj_attn."""
    found = re.fullmatch(r"(.*\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{found[1]}.{_OLD_ATTENTION[found[2]]}.{found[3]}" if found else name


_RENAMES = {"vae": _rename_vae, "prompt_encoder": rename_tower}


def check_sizes(task: Task, config: ModelConfig, where: str) -> None:
    """Raises :class:`LDISError` where the networks do not fit the task or each other."""
    unet, latent, encoder = config.unet, config.vae.latent_channels, config.prompt_encoder
    multiple = config.vae.downscale * 2 ** (len(unet.block_out_channels) - 1)
    fault = None
    if encoder.query_channels and task.name != "ldis1":
        fault = LDISError(f"{where}: task {task.name!r} needs (Alpha-)CLIP as its prompt encoder")
    elif unet.in_channels != latent * (1 if task.name == "ldis1" else 2) + encoder.query_channels:
        fault = LDISError(f"{where}: a UNet of {unet.in_channels} input channels cannot serve task {task.name!r}")
    elif unet.out_channels != latent:
        fault = LDISError(f"{where}: the UNet predicts {unet.out_channels} channels, the VAE has {latent}")
    elif (unet.encoder_hid_dim or unet.cross_attention_dim) != encoder.width:
        fault = LDISError(f"{where}: the prompt encoder's width {encoder.width} does not fit the UNet")
    elif task.image_size % multiple:
        fault = LDISError(f"{where}: image_size {task.image_size} is not a multiple of {multiple}")
    elif not encoder.alpha and task.masking in ("both", "pre"):
        fault = LDISError(f"{where}: masking={task.masking!r} needs Alpha-CLIP; plain CLIP takes 'post' or 'none'")
    if fault is not None:
        raise fault


def open_model(
    folder: Path, variant: str | None = None, lora: StrPath | None = None
) -> tuple[Task, ModelConfig, dict[str, Weights]]:
    """(task, sizes, tensors of :data:`NETWORKS`) of a model folder.

    ``lora`` is a file or folder of LoRA, merged into the UNet; its task replaces the folder's.
    """
    task, config = read_task(folder), read_model_config(folder)
    weights = {name: open_weights(folder / name, name, variant) for name in NETWORKS}
    if lora is not None:
        trained = open_lora(Path(lora))
        weights["unet"] = merge(weights["unet"], trained.weights)
        if trained.task is not None:
            task = _with_schedule_of(folder, trained.task)
    check_sizes(task, config, str(folder))
    return task, config, weights


def load_model(folder: str | Path, dtype: DTypeLike = jnp.float32, lora: str | Path | None = None) -> LoadedModel:
    """Reads a model folder; parameters are stored and layers compute in ``dtype``. Further as :func:`open_model`.

    Raises:
        LDISError: a missing or unreadable file, or weights that do not fit their config.
    """
    folder = Path(folder)
    task, config, weights = open_model(folder, lora=lora)
    model = fill_model(LDISModel.abstract(config, dtype=dtype), weights, dtype)
    return LoadedModel(task, model, read_card(folder, lora))


def fill_model(model: LDISModel, weights: Mapping[str, Weights], dtype: DTypeLike = jnp.float32) -> LDISModel:
    """The abstract networks of :func:`open_model`'s sizes, now with its tensors."""
    for name in NETWORKS:
        setattr(model, name, fill(getattr(model, name), weights[name], dtype=dtype))
    return model


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

    An existing folder is replaced only if it is empty, or a model folder in which nothing else lies. Tensors are read,
    checked and written one at a time, in ``dtype`` or each in its own. Without a ``card``, ``README.md`` says what the
    task and the sizes tell.

    Raises:
        LDISError: the destination cannot be written, or exists and is something else; networks that do not fit the
            task or each other, or weights that are not theirs.
    """
    check_sizes(task, config, str(folder))
    abstract = LDISModel.abstract(config)
    checked = {name: match(getattr(abstract, name), networks[name]) for name in NETWORKS}
    if dtype is not None:
        checked = {name: {key: cast(t, dtype) for key, t in tensors.items()} for name, tensors in checked.items()}
    total = sum(tensor.nbytes for tensors in checked.values() for tensor in tensors.values())
    with writing(folder):
        folder = resolved(folder)  # "." and ".." would mean another folder once this one is moved away
        _require_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            write_json(staging / TASK_FILE, task.to_dict())
            write_json(staging / "scheduler" / "scheduler_config.json", task.schedule.to_dict())
            text = model_card(task, config) if card is None else card
            (staging / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")
            write_diffusers_files(staging, task, config)
            quiet = total < _PROGRESS_BYTES
            with tqdm(desc="write weights", total=total, unit="B", unit_scale=True, disable=quiet) as bar:
                for name, tensors in checked.items():
                    write_network(staging, name, getattr(config, name), tensors, bar.update)
            _move_into_place(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _require_replaceable(folder: Path) -> None:
    """A model folder is replaced as a whole, so nothing else may lie in it; an empty folder is as good as none."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    others = names - OWN_FILES
    if others or (names and TASK_FILE not in names):
        what = list_names(others or names)
        raise LDISError(f"{folder}: exists and is no model folder, or holds more than one ({what}); choose another")


def _move_into_place(staging: Path, folder: Path) -> None:
    staging.chmod(0o755)
    if not folder.exists() or not any(folder.iterdir()):
        staging.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    try:
        folder.rename(old / "model")
        staging.rename(folder)
    finally:
        if not folder.exists():
            (old / "model").rename(folder)  # where this fails too, the old model stays in ``old``
        shutil.rmtree(old)


def write_network(
    folder: Path,
    network: str,
    config: UNetConfig | VAEConfig | AnyPromptEncoderConfig,
    tensors: Mapping[str, LazyTensor],
    progress: Callable[[int], Any] = lambda _: None,
) -> None:
    """Writes ``config.json`` and weights of "unet", "vae" or "prompt_encoder" into its subfolder."""
    write_json(folder / network / "config.json", config.to_dict())
    write_safetensors(folder / network / f"{STEMS[network][0]}.safetensors", tensors, progress)


def model_hash(folder: Path) -> str:
    """16 hex digits of the SHA-256 over a model folder's files and its networks', links followed, its card and
    what only diffusers reads left out.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin") and path.name != INDEX:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
