"""The work of ``python -m ldis_jax.convert``: each function takes its arguments and returns a line to print."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldis_jax.config import init_folder
from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.models.config import UNetConfig
from ldis_jax.models.ldis import LDISModel, ModelConfig
from ldis_jax.models.lora import LoRA
from ldis_jax.support.files import reading
from ldis_jax.support.json_files import read_json
from ldis_jax.tasks import task_from_dict
from ldis_jax.training.checkpoint import read_params
from ldis_jax.training.metric_writer import read_metrics
from ldis_jax.weights.addresses import HubAddress, WebAddress, parse_address
from ldis_jax.weights.assembly import Sources, assemble, open_vae
from ldis_jax.weights.card import model_card, read_provenance
from ldis_jax.weights.downloads import fetch, local_file
from ldis_jax.weights.hub import push, resolve
from ldis_jax.weights.ldis_checkpoint import write_ldis_checkpoint
from ldis_jax.weights.lora_files import merge, trained_part, write_lora
from ldis_jax.weights.model_folder import (
    open_model,
    open_weights,
    prompt_encoder_config_from_dict,
    read_card,
    vae_config_from_dict,
    with_schedule,
    write_folder,
)
from ldis_jax.weights.named_fetch import find_ldis
from ldis_jax.weights.named_models import TABLE, ready_folder
from ldis_jax.weights.rules import match, table, weights_hash
from ldis_jax.weights.tensors import Weights, from_array
from ldis_jax.weights.training_init import FROZEN, unet_of_folder

__all__ = ["from_checkpoint", "from_model", "from_stable_diffusion", "push", "resolve"]


def from_stable_diffusion(args: argparse.Namespace) -> str:
    """Stable Diffusion and a prompt encoder, with the paper's trained UNet or without, into a model folder."""
    clip = None if args.clip is None else _file_or_folder(args.clip)
    alpha_clip = None if args.alpha_clip is None else local_file(args.alpha_clip)
    ldis = None if args.ldis is None else _checkpoint(args.ldis, args.task)
    sd15 = resolve(args.sd15, args.revision, args.variant)
    vae = None if args.vae is None else resolve(args.vae)
    origins = [args.sd15, args.vae, args.alpha_clip, args.clip, args.ldis]
    task = assemble(
        args.out,
        args.task,
        Sources(sd15, alpha_clip, clip, ldis, vae),
        [_origin(origin) for origin in origins if origin is not None],
        variant=args.variant,
        sd15_config=args.sd15_config,
        zero_alpha=args.zero_alpha,
        seed=args.seed or 0,
        dtype=args.dtype or "float32",
    )
    if args.ldis is not None:
        return f"{args.out}: {task.name} model folder with the paper's weights"
    return (
        f"{args.out}: {task.name} model folder, not trained for segmentation; to train it: "
        f"--config=configs/{task.name}.py --config.init.folder={args.out}"
    )


def from_checkpoint(args: argparse.Namespace) -> str:
    """One step of a training run into a model folder, or its LoRA alone.

    The frozen networks, with LoRA the UNet's base among them, come from where training started.
    """
    saved = read_params(args.checkpoint / "checkpoints", args.step)
    where = str(args.checkpoint / "checkpoints" / str(saved.step))
    found = saved.fingerprint
    with reading(f"{where}: fingerprint"):
        config = ModelConfig(
            UNetConfig.from_dict(found["networks"]["unet"], where),
            vae_config_from_dict(found["networks"]["vae"], where),
            prompt_encoder_config_from_dict(found["networks"]["prompt_encoder"], where),
        )
        masking = {} if config.prompt_encoder.alpha else {"masking": "post"}  # of runs before there was such a key
        task = task_from_dict(masking | found["task"], where)
        if task.needs_schedule:
            task = with_schedule(task, NoiseSchedule.from_dict(found["schedule"], where))
        sources, batch_size = dict(found["sources"]), int(found["batch_size"])
        frozen_hashes, seed = dict(found["frozen"]), int(found["seed"])
        lora = LoRA.from_dict(found.get("lora", {}), where)
    unet, started = _unet_of(saved.params, config, lora, where), _init_of(args.checkpoint / "config.json")

    def card(base: str | None) -> str:
        run = (sources, saved.step, batch_size, _metrics(args.checkpoint, saved.step))
        return model_card(task, config, read_provenance(base).trained(*run, new_unet=bool(started.get("unet"))))

    if args.to == "lora":
        if lora is None:
            raise LDISError(f"{args.checkpoint}: trained the whole UNet, no LoRA; leave --to=lora out")
        name = str(started.get("folder"))
        base = ready_folder(name) if name in TABLE else Path(name)  # not fetched for its card
        text = card(None if base is None else read_card(base))
        write_lora(args.out, task, trained_part(unet.tensors, lora), text, args.dtype or "float32")
        return f"{args.out}: LoRA of step {saved.step}"
    init = args.init or init_folder(str(started.get("folder")))
    weights = {name: open_weights(init / name, name) for name in FROZEN} if init.is_dir() else {}
    if lora is not None and weights:
        weights["unet"] = unet_of_folder(init, task, config.prompt_encoder, seed)[1]
    if {name: weights_hash(part.tensors) for name, part in weights.items()} != frozen_hashes:
        raise LDISError(f"{init}: not there, or not what the run was trained with; say where that is with --init")
    weights["unet"] = unet if lora is None else merge(weights["unet"], trained_part(unet.tensors, lora))
    write_folder(args.out, task, config, weights, card(read_card(init)), args.dtype or "float32")
    return f"{args.out}: {task.name} model folder of step {saved.step}"


def from_model(args: argparse.Namespace) -> str:
    """A model folder into another (type, form of files, autoencoder, LoRA merged), or the paper's own format."""
    folder = resolve(args.model, args.revision, args.variant)
    task, config, weights = open_model(folder, args.variant, args.lora)
    if args.to == "ldis_pt":
        write_ldis_checkpoint(args.out, match(LDISModel.abstract(config).unet, weights["unet"]))
        return f"{args.out}: the UNet as the paper's scripts load it, from CHECKPOINT/pytorch_model/"
    card = read_card(folder)
    if args.vae is not None:
        vae_config, weights["vae"] = open_vae(resolve(args.vae))
        config = ModelConfig(config.unet, vae_config, config.prompt_encoder)
    if added := [_origin(str(part)) for part in (args.vae, args.lora) if part is not None]:
        base = read_provenance(card)  # its figures were another model's
        facts = base if args.lora is None else read_provenance(read_card(folder, args.lora))
        facts = dataclasses.replace(
            facts, license=base.license, base=(*base.base, *added), data={**base.data, **facts.data}
        )
        card = model_card(task, config, facts)
    write_folder(args.out, task, config, weights, card, args.dtype or "float32")
    return f"{args.out}: {task.name} model folder"


def _checkpoint(text: str, task: str | None) -> Path:
    """The paper's trained UNet; of a repository, the one file that is the task's."""
    address = parse_address(text)
    return address if isinstance(address, Path) else fetch(find_ldis(text, task))


def _file_or_folder(text: str) -> Path:
    """CLIP is a file, or a folder of transformers' with an id of the hub."""
    address = parse_address(text)
    if isinstance(address, HubAddress) and not address.path:
        return resolve(address.repo, address.revision)
    if isinstance(address, WebAddress) and address.sha256 is None:
        raise LDISError(f"--clip={text}: needs #sha256=DIGEST, for such a file may be code")
    return local_file(text)


def _unet_of(params: Mapping[str, np.ndarray], config: ModelConfig, lora: LoRA | None, where: str) -> Weights:
    """Torch names of "unet/conv_in/kernel" and the like."""
    tensors = {}
    for name, entry in table(LDISModel.abstract(config, lora=lora).unet).items():
        array = params.get("/".join(map(str, ("unet", *entry.path))))
        if array is not None and array.ndim == len(entry.to_torch):
            tensors[name] = from_array(np.transpose(array, entry.to_torch))
    return Weights(tensors, where)


def _init_of(path: Path) -> dict[str, Any]:
    """``init`` of a run's ``config.json``, which may be gone where --init says what it would."""
    init = read_json(path).get("init") if path.is_file() else None
    return init if isinstance(init, dict) else {}


def _metrics(workdir: Path, step: int) -> dict[str, float]:
    """The figures that the run measured at a step."""
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if line["step"] == step]
    return {
        name: value
        for line in lines
        for name, value in line.items()
        if name != "step" and not name.startswith("train/") and isinstance(value, float) and math.isfinite(value)
    }


def _origin(value: str) -> str:
    """A hub id as it is, a path by its last part: a card must not carry the folders of a machine."""
    return Path(value).resolve().name if Path(value).exists() else value
