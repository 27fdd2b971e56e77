"""Results of a run: the model folder, LoRA's pairs alone, and the report for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from ldis_jax.config import init_folder
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import unflatten
from ldis_jax.support import markdown
from ldis_jax.tasks.confidence import Confidence
from ldis_jax.training.run import Run
from ldis_jax.weights import to_torch
from ldis_jax.weights.card import model_card, read_provenance
from ldis_jax.weights.lora_files import LORA_FILE, merge, trained_part, write_lora
from ldis_jax.weights.model_folder import read_card, write_folder
from ldis_jax.weights.tensors import Weights


def write_model(
    run: Run,
    confidence: Confidence,
    workdir: Path,
    model: tuple[nnx.GraphDef[LDISModel], Mapping[str, Any], Mapping[str, Any]],
    frozen_files: dict[str, Weights],
    steps: int,
    results: dict[str, float],
) -> None:
    """Writes ``model/`` and, with LoRA, ``lora/``.

    Args:
        run: that made it.
        confidence: of the network at the end.
        workdir: its folder.
        model: (structure, trained parameters, frozen ones).
        frozen_files: frozen networks as they came; on the device they may be bfloat16.
        steps: that were taken.
        results: of the evaluation at the end, for the model card.
    """
    config, task = run.config, dataclasses.replace(run.task, confidence=confidence)
    facts = read_provenance(read_card(init_folder(config.init.folder))).trained(
        config.data.sources, steps, config.batch_size, results, new_unet=bool(config.init.unet)
    )
    card = model_card(task, run.networks, facts)
    unet, tensors = to_torch(unflatten(*model).unet), dict(frozen_files)
    if run.lora is None:
        tensors["unet"] = Weights(unet, "unet")
    else:
        alone = trained_part(unet, run.lora)
        write_lora(workdir / "lora" / LORA_FILE, task, alone, card)
        tensors["unet"] = merge(tensors["unet"], alone)
    write_folder(workdir / "model", task, run.networks, tensors, card)


def write_training_page(workdir: Path, report: Mapping[str, Any]) -> None:
    """Writes ``report.md`` of a training run: figures, curves, and the images before and after.

    Args:
        workdir: has ``curves.png`` and ``pictures/``, one sheet an evaluation.
        report: the content of its ``report.json``.
    """
    facts = {
        "evaluated on": f"{report['evaluation_set']}: {report['episodes']} episodes, hash `{report['episodes_hash']}`",
        "training": f"{report['steps']} steps, {report['seconds']:.0f} s in the last start",
        "model": "`model/`, for `python -m ldis_jax.segment --model=`; this page and `report.json` describe it",
    }
    parts = [
        verdict(report),
        markdown.figures_table(report, {"miou": "mIoU", "fb_iou": "FB-IoU"}),
        markdown.bullet_list(facts),
    ]
    parts.append("## Curves\n\n![curves](curves.png)")
    sheets = sorted((workdir / "pictures").glob("*.png"))
    shown = {
        f"At the end, step {report['steps']}": sheets[-1:],
        "Before training": sheets[:1] if "before" in report else [],
    }
    for title, paths in shown.items():
        parts += [f"## {title}\n\n![{title}](pictures/{path.name})" for path in paths]
    if found := report.get("advice"):
        parts.append("## What would help\n\n" + "\n".join(f"- {line}" for line in found))
    markdown.write_page(workdir / "report.md", f"Training: {workdir.name}", parts)


def verdict(report: Mapping[str, Any]) -> str:
    """One line on what a model's mIoU is worth: it has to exceed that of what takes no model."""
    names = {"copy_prompt": "copying the prompt's mask", "all_foreground": "calling everything foreground"}
    gains = {names[key]: report["miou"] - baseline["miou"] for key, baseline in report["baselines"].items()}
    if missed := [name for name, gain in gains.items() if gain <= 0]:
        return f"**Not above {' and '.join(missed)}: of no use yet.**"
    return "mIoU is " + " and ".join(f"{gain:.1f} points above {name}" for name, gain in gains.items()) + "."
