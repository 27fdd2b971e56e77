"""The report of a training run for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldis_jax.support import markdown


def write_training_page(workdir: Path, report: Mapping[str, Any]) -> None:
    """Writes ``report.md`` of a training run: figures, curves, and the pictures before and after.

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
    markdown.write_page(workdir / "report.md", f"Training: {workdir.name}", parts)


def verdict(report: Mapping[str, Any]) -> str:
    """One line on what a model's mIoU is worth: it has to exceed that of what takes no model."""
    names = {"copy_prompt": "copying the prompt's mask", "all_foreground": "calling everything foreground"}
    gains = {names[key]: report["miou"] - baseline["miou"] for key, baseline in report["baselines"].items()}
    if missed := [name for name, gain in gains.items() if gain <= 0]:
        return f"**Not above {' and '.join(missed)}: of no use yet.**"
    return "mIoU is " + " and ".join(f"{gain:.1f} points above {name}" for name, gain in gains.items()) + "."
