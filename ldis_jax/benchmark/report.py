"""The report of an evaluation for people: Markdown with pictures beside the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldis_jax.benchmark.intervals import with_interval
from ldis_jax.benchmark.videos import VideoSource
from ldis_jax.evaluators import PictureEvaluator
from ldis_jax.evaluators.episodes import Predict
from ldis_jax.files import atomic_write
from ldis_jax.image_io import IGNORE_LABEL
from ldis_jax.input_pipeline import Episode
from ldis_jax.visualize import PALETTE, contact_sheet, overlay, plot_bars

_SHOWN = 4  # episodes in each of the three sheets
_CAPTION = "Percent, with 95 % bootstrap intervals in brackets."


def ranked(records: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Episodes worth looking at by their IoU: {"best", "median", "worst"} -> indices. Empty unions are left out."""
    areas = np.array([record["areas"][1] for record in records], np.float64)
    shown = np.flatnonzero(areas[:, 1] > 0)
    order = shown[np.argsort(-areas[shown, 0] / areas[shown, 1], kind="stable")]
    middle = max((len(order) - _SHOWN) // 2, 0)
    return {
        "best": order[:_SHOWN].tolist(),
        "median": order[middle : middle + _SHOWN].tolist(),
        "worst": order[::-1][:_SHOWN].tolist(),
    }


def write_page(
    path: Path,
    report: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    episodes: Sequence[Episode],
    predict: Predict,
    image_size: int,
    batch_size: int,
) -> None:
    """Writes the page and its pictures: bars by class, and the best, median and worst episodes, predicted again.

    Args:
        path: ``.md`` file; pictures go into a folder beside it, of its name without the ending.
        report: the JSON report.
        records: of the whole evaluation.
        episodes: all of them.
        predict: as evaluators take it.
        image_size: S.
        batch_size: as in the evaluation, so that nothing compiles anew.
    """
    pictures = path.with_suffix("")
    plot_bars(report["iou_per_class"], "IoU by class, percent", pictures / "classes.png")
    sheets = []
    for name, indices in ranked(records).items():
        if indices:
            sheet = PictureEvaluator(episodes, image_size, batch_size, pictures / f"{name}.png", indices)
            for _ in sheet.run(predict):
                pass
            sheets.append(f"## {name.capitalize()} episodes\n\n![{name} episodes]({pictures.name}/{name}.png)")
    text = "\n\n".join([_head(report), f"## Classes\n\n![IoU by class]({pictures.name}/classes.png)", *sheets])
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _head(report: Mapping[str, Any]) -> str:
    names = ("miou", "fb_iou")
    rows: list[tuple[str, ...]] = [("", "mIoU", "FB-IoU"), ("---",) * 3]
    rows += [(who, *(with_interval(v, n) for n in names)) for who, v in _everyone(report)]
    table = _markdown(rows)
    facts = {
        "model": f"{report['model']} ({report['task']}), hash `{report['model_hash']}`",
        "episodes": f"{report['episodes']} of {report['num_shots']} prompts, hash `{report['episodes_hash']}`",
        "accumulation": report["accumulation"],
        "test classes in training": report["domain"],
        "software": report["software"],
    }
    lines = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    return f"# {report['benchmark']}\n\n{table}\n\n{_CAPTION}\n\n{lines}"


def _everyone(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The model's figures and the baselines', by name."""
    return [("this model", report), *((name.replace("_", " "), v) for name, v in report["baselines"].items())]


def strip(source: VideoSource, video: str, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """A picture of a video: the prompt, then frames spread over it with prediction and truth; uint8 [H, W, 3]."""
    times = np.unique(np.linspace(1, len(predicted), _SHOWN, dtype=int))
    given = _coloured(*source.frame(video, 0))
    tiles = [[given], [given]]
    for t in map(int, times):
        picture = source.frame(video, t)[0]
        tiles[0].append(_coloured(picture, predicted[t - 1]))
        tiles[1].append(_coloured(picture, truth[t - 1]))
    return contact_sheet(tiles, ["frame 0, given", *(f"frame {t}" for t in times)], [f"{video}: prediction", "truth"])


def _coloured(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    for label in np.unique(labels):
        if label not in (0, IGNORE_LABEL):
            picture = overlay(picture, labels == label, PALETTE[(label - 1) % len(PALETTE)])
    return picture


def write_video_page(path: Path, report: Mapping[str, Any], pictures: Mapping[str, int]) -> None:
    """Writes the page of a video benchmark.

    Args:
        path: ``.md`` file.
        report: the JSON report.
        pictures: video -> number of its strip in the folder beside the page.
    """
    names = [name for name in report if f"{name}_interval" in report]
    names += [name for name in report if name.endswith("_vspw_code")]
    rows = [("", *names), ("---",) * (len(names) + 1)]
    rows += [(who, *(with_interval(values, name) for name in names)) for who, values in _everyone(report)]
    facts = {
        "model": f"{report['model']} ({report['task']}), hash `{report['model_hash']}`",
        "videos": f"{report['videos']}, hash `{report['videos_hash']}`; left out: {len(report['left_out'])}",
        "test classes in training": report["domain"],
        "software": report["software"],
    }
    shown = [video for video in pictures if video not in report["left_out"]][:_SHOWN]
    strips = [f"![{video}]({path.stem}/{pictures[video]:04d}.png)" for video in shown]
    lines = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    parts = [f"# {report['benchmark']}", _markdown(rows), _CAPTION, lines, *strips]
    with atomic_write(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
