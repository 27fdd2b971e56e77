"""The report of an evaluation for people: Markdown, with images in a folder of the page's name beside it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ldis_jax.errors import list_names
from ldis_jax.evaluation.video_benchmark import Frame, segment_frames
from ldis_jax.evaluators import SheetEvaluator
from ldis_jax.inference.batches import Predict
from ldis_jax.input_pipeline import Episode, IndexedSource
from ldis_jax.media.images import write_png
from ldis_jax.media.overlays import contact_sheet, overlay_labels
from ldis_jax.media.plots import plot_bars, plot_reliability, plot_shots
from ldis_jax.support import markdown
from ldis_jax.tasks.confidence import NOT_CALIBRATED, Confidence

_MOST_ROWS = 40  # of a table by class
_SHOWN = 4  # episodes or videos that are best, median and worst, and frames of a video
_CAPTION = "Percent, with 95 % bootstrap intervals in brackets."
_SCORE_FIGURES = {
    "ece": "calibration error of the score against IoU (0 to 1)",
    "auroc": "AUROC of the score, present against absent objects",
    "false_alarms": "absent objects with a mask above 0.1 % of the image, percent",
    "rendered_area": "area that masks of absent objects cover, percent of the image",
}
T = TypeVar("T")


class Subject(NamedTuple):
    """The model that is measured.

    Attributes:
        facts: for the report: "model", "model_hash", "task", "settings", "knows", "domain", "software".
        predict: as evaluators take it; on this process's devices alone.
        image_size: S.
        batch_size: over all devices of this process.
        tile: of the task.
        confidence: of the task, and the threshold that was asked for.
        training_sets: of :func:`~ldis_jax.evaluation.protocols.domain`.
    """

    facts: Mapping[str, Any]
    predict: Predict
    image_size: int
    batch_size: int
    tile: float = 1.0
    confidence: Confidence = NOT_CALIBRATED
    training_sets: Mapping[str, Sequence[int]] = MappingProxyType({})


def ranked(records: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Episodes worth looking at by their IoU: {"best", "median", "worst"} -> indices. Empty unions are left out."""
    areas = np.array([record["areas"][1] for record in records], np.float64)
    shown = np.flatnonzero(areas[:, 1] > 0)
    return _worth_a_look(shown[np.argsort(-areas[shown, 0] / areas[shown, 1], kind="stable")].tolist())


def ranked_videos(per_video: Mapping[str, Mapping[str, float | None]], figure: str) -> dict[str, list[str]]:
    """The same of videos by one of their figures; those without it are left out."""
    values = {video: value for video, figures in per_video.items() if (value := figures[figure]) is not None}
    return _worth_a_look(sorted(values, key=lambda video: -values[video]))


def _worth_a_look(order: list[T]) -> dict[str, list[T]]:
    middle = max((len(order) - _SHOWN) // 2, 0)
    return {"best": order[:_SHOWN], "median": order[middle : middle + _SHOWN], "worst": order[::-1][:_SHOWN]}


def write_page(
    path: Path,
    report: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    episodes: Sequence[Episode],
    subject: Subject,
) -> None:
    """Writes the page and its images: bars by class, and the best, median and worst episodes, predicted again.

    ``report`` and ``records`` are the whole evaluation's, and ``subject`` its own, so that nothing compiles again.
    """
    folder, (_, predict, size, batch_size, tile, confidence, _) = path.with_suffix(""), subject
    plot_bars(report["iou_per_class"], "IoU by class, percent", folder / "classes.png")
    plot_reliability(report["reliability"], report["ece"], folder / "reliability.png")
    parts = [markdown.figures_table(report, {"miou": "mIoU", "fb_iou": "FB-IoU"}), _CAPTION, _facts(report)]
    parts.append(_score_section(report, subject, f"{folder.name}/reliability.png"))
    parts.append(f"## Classes\n\n![IoU by class]({folder.name}/classes.png)")
    if len(report["episodes_per_class"]) <= _MOST_ROWS:
        parts.append(_class_table(report))
    for name, indices in ranked(records).items():
        if indices:
            sheet = SheetEvaluator(episodes, size, batch_size, folder / f"{name}.png", indices, tile, confidence)
            for _ in sheet.run(predict):
                pass
            parts.append(f"## {name.capitalize()} episodes\n\n![{name} episodes]({folder.name}/{name}.png)")
    markdown.write_page(path, report["benchmark"], parts)


def _score_section(report: Mapping[str, Any], subject: Subject, plot: str) -> str:
    """The page's section on scores and absent objects."""
    confidence = subject.confidence
    if confidence.is_calibrated:
        text = (
            f"Calibrated on {confidence.episodes} held-out episodes; below {confidence.min_score:.2f} a mask is empty."
        )
    else:
        text = "This model's score is not calibrated: take it as a rough guide, and not as an expected IoU."
    rows = [("figure", "value"), ("---", "---")]
    rows += [(title, markdown.with_interval(report, name)) for name, title in _SCORE_FIGURES.items() if name in report]
    return f"## Score\n\n{text}\n\n{markdown.table(rows)}\n\n![Score against true IoU]({plot})"


def _class_table(report: Mapping[str, Any]) -> str:
    """IoU of the model and of the baselines by class; empty where neither truth nor prediction ever shows it."""
    everyone = markdown.everyone(report)
    rows: list[Sequence[str]] = [("class", "episodes", *(f"IoU: {who}" for who, _ in everyone))]
    rows.append(("---",) * len(rows[0]))
    for name, count in sorted(report["episodes_per_class"].items()):
        found = (values["iou_per_class"].get(name) for _, values in everyone)
        rows.append((name, str(count), *("" if iou is None else f"{iou:.2f}" for iou in found)))
    return markdown.table(rows)


def write_curve_page(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the page of a K-shot curve: table and plot."""
    points, plot = report["k_shot_curve"], path.with_suffix("") / "k_shot_curve.png"
    copied = report["baselines"]["copy_prompt"]["miou"]
    plot_shots(points, {"copy the first prompt's mask": copied}, plot)
    columns = {"miou": "mIoU", "fb_iou": "FB-IoU", "gain": f"mIoU over {points[0]['num_shots']}-shot"}
    rows = [("prompts", *columns.values()), ("---",) * (1 + len(columns))]
    rows += [(str(point["num_shots"]), *(markdown.with_interval(point, name) for name in columns)) for point in points]
    for who, values in markdown.everyone(report)[1:]:
        rows.append((who, *(markdown.with_interval(values, name) for name in ("miou", "fb_iou")), ""))
    most, classes = points[-1]["num_shots"], len(points[-1]["iou_per_class"])
    queries = (
        f"All rows are of the same {report['episodes']} queries of {classes} classes, those with more than {most} "
        f"images; fewer prompts are the first of the {most}. A difference's interval is of the same resamples of both."
    )
    chart = f"![mIoU by number of prompts]({plot.parent.name}/{plot.name})"
    parts = [markdown.table(rows), f"{_CAPTION} {queries}", chart, _facts(report)]
    markdown.write_page(path, f"{report['benchmark']}, by number of prompts", parts)


def write_folds_page(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the page of all folds of a benchmark: their mean, each of them, and bars by class."""
    plot = path.with_suffix("") / "classes.png"
    plot_bars(report["iou_per_class"], "IoU by class, percent", plot)
    rows = [("fold", "mIoU", "FB-IoU", *(f"mIoU: {name.replace('_', ' ')}" for name in report["baselines"]), "domain")]
    rows.append(("---",) * len(rows[0]))
    for name, values in (*((fold["benchmark"], fold) for fold in report["folds"]), ("mean", report)):
        cells = [markdown.with_interval(values, figure) for figure in ("miou", "fb_iou")]
        cells += [markdown.with_interval(found, "miou") for found in values["baselines"].values()]
        rows.append((name, *cells, values["domain"].partition(":")[0]))
    caption = f"{_CAPTION} The mean's are of the mean: every fold is resampled by itself."
    bars = f"![IoU by class]({plot.parent.name}/{plot.name})"
    markdown.write_page(path, report["benchmark"], [markdown.table(rows), caption, _facts(report), bars])


def write_video_page(
    path: Path, report: Mapping[str, Any], ranked_by: str, source: IndexedSource, subject: Subject
) -> None:
    """Writes the page of a video benchmark: bars by class or video, and the best, median and worst videos.

    Four frames of each of these are predicted again, and its image has its number in the set; ``ranked_by`` is the
    figure of "per_video" that says which are best.
    """
    folder, numbers = path.with_suffix(""), {video: i for i, video in enumerate(source.videos)}
    names = [name for name in report if f"{name}_interval" in report]
    names += [name for name in report if name.endswith("_vspw_code")]
    if "iou_per_class" in report:
        bars, title = report["iou_per_class"], "IoU by class"
    else:
        bars, title = {video: figures[ranked_by] for video, figures in report["per_video"].items()}, "J&F by video"
    plot_bars(bars, f"{title}, percent", folder / "bars.png")

    sections, lengths = ranked_videos(report["per_video"], ranked_by), source.videos
    shown = dict.fromkeys(itertools.chain.from_iterable(sections.values()))  # of few videos, one in several sections
    times = {video: np.unique(np.linspace(1, lengths[video] - 1, _SHOWN, dtype=int)).tolist() for video in shown}
    frames = [(video, time) for video in shown for time in times[video]]
    predicted = segment_frames(
        subject.predict, source, frames, subject.image_size, subject.batch_size, subject.tile, subject.confidence
    )
    for video, group in itertools.groupby(predicted, key=lambda frame: frame.video):
        write_png(folder / f"{numbers[video]:04d}.png", strip(video, source.frame(video, 0), list(group)))

    parts = [markdown.figures_table(report, dict(zip(names, names, strict=True))), _CAPTION, *report["notes"]]
    parts.append(_facts(report))
    parts.append(f"## {title}\n\n![{title}]({folder.name}/bars.png)")
    for name, videos in sections.items():
        if fresh := [video for video in videos if shown.pop(video, True) is None]:
            parts.append(f"## {name.capitalize()} videos by {ranked_by}")
        for video in fresh:
            value = report["per_video"][video][ranked_by]
            parts.append(f"{video}: {value:.2f}\n\n![{video}]({folder.name}/{numbers[video]:04d}.png)")
    markdown.write_page(path, report["benchmark"], parts)


def strip(video: str, given: tuple[np.ndarray, np.ndarray], frames: Sequence[Frame]) -> np.ndarray:
    """An image of a video: the first frame with its labels, then frames with prediction and truth; uint8 [H, W, 3]."""
    first = overlay_labels(*given)
    predicted = [first, *(overlay_labels(frame.image, frame.predicted) for frame in frames)]
    true = [first, *(overlay_labels(frame.image, frame.truth) for frame in frames)]
    titles = ["frame 0, given", *(f"frame {frame.time}" for frame in frames)]
    return contact_sheet([predicted, true], titles, [f"{video}: prediction", "truth"])


def _facts(report: Mapping[str, Any]) -> str:
    if "videos" in report:
        about = {"videos": f"{report['videos']}, hash `{report['videos_hash']}`; left out: {len(report['left_out'])}"}
    else:
        shots = report["num_shots"] if isinstance(report["num_shots"], int) else max(report["num_shots"])
        episodes = f"{report['episodes']} of {shots} prompts, hash `{report['episodes_hash']}`"
        about = {"episodes": episodes, "accumulation": report["accumulation"]}
    if "folders" in report:
        about["folders"] = f"{list_names(report['folders'])}, hash `{report['data_hash']}`"
        for key, value in report["choice"].items():
            about[key.replace("_", " ")] = ", ".join(value) if isinstance(value, list) else str(value)
        about |= {f"note {i}": note for i, note in enumerate(report["notes"], 1)}
    model = f"{report['model']} ({report['task']}), hash `{report['model_hash']}`"
    about = {"it knows": report["knows"], **about} if report["knows"] else about
    others = {"test classes in training": report["domain"], "software": report["software"]}
    return markdown.bullet_list({"model": model, **about, **others})
