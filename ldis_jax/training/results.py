"""What a run leaves at its end: the model folder, the report, and LoRA's pairs alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from ldis_jax.config import init_folder
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import unflatten
from ldis_jax.support.files import write_json
from ldis_jax.training.report import write_training_page
from ldis_jax.training.run import Run
from ldis_jax.weights import to_torch
from ldis_jax.weights.card import model_card, read_provenance
from ldis_jax.weights.lora_files import LORA_FILE, merge, trained_part, write_lora
from ldis_jax.weights.model_folder import write_folder
from ldis_jax.weights.tensors import Weights


def write_model(
    run: Run,
    workdir: Path,
    model: tuple[nnx.GraphDef[LDISModel], Mapping[str, Any], Mapping[str, Any]],
    frozen_files: dict[str, Weights],
    results: dict[str, float],
) -> None:
    """Writes ``model/`` and, with LoRA, ``lora/``.

    Args:
        run: that made it.
        workdir: its folder.
        model: (structure, trained parameters, frozen ones).
        frozen_files: frozen networks as they came; on the device they may be bfloat16.
        results: of the evaluation at the end, for the model card.
    """
    unet, tensors = to_torch(unflatten(*model).unet), dict(frozen_files)
    if run.lora is None:
        tensors["unet"] = Weights(unet, "unet")
    else:
        alone = trained_part(unet, run.lora)
        write_lora(workdir / "lora" / LORA_FILE, run.task, alone)
        tensors["unet"] = merge(tensors["unet"], alone)
    config = run.config
    facts = read_provenance(init_folder(config.init.folder)).trained(
        config.data.sources, config.train_steps, config.batch_size, results, new_unet=bool(config.init.unet)
    )
    write_folder(workdir / "model", run.task, run.networks, tensors, model_card(run.task, run.networks, facts))


def write_report(workdir: Path, report: dict[str, Any]) -> None:
    """Writes ``report.json`` and ``report.md``, for which ``curves.png`` is there."""
    write_json(workdir / "report.json", report)
    write_training_page(workdir, report)
