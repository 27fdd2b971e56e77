"""Measures of videos: a JSON-able record of each, and figures of all from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldis_jax.evaluation.intervals import interval, resamples
from ldis_jax.evaluation.video_benchmark import VideoLabels
from ldis_jax.evaluators import DavisMetrics, VSPWMetrics
from ldis_jax.evaluators.video_consistency import RULES
from ldis_jax.media.masks import IGNORE_LABEL

_VC_SIZES = (8, 16)


class ObjectVideos:
    """J and F of every object that a video's first frame shows, as DAVIS 2016 and 2017 count them.

    The mean is over the objects of all videos, whatever video they are in (davis2017-evaluation, semi-supervised).
    """

    RANKED_BY = "j_and_f"

    @staticmethod
    def record(video: str, labels: VideoLabels) -> dict[str, Any]:
        """Measures one video, all frames but the first; DAVIS leaves out the last one too."""
        metrics = DavisMetrics(leave_out_ends=False)
        for label in map(int, np.unique(labels.first)):
            if label not in (0, IGNORE_LABEL):
                metrics.update(str(label), (labels.predicted == label)[:-1], (labels.truth == label)[:-1])
        return {"video": video, "objects": metrics.result()["per_sequence"]}

    @staticmethod
    def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means over objects in percent, with 95 % intervals from resampled videos; "per_video" and "per_object"."""
        objects = [record["objects"] for record in records]
        names = list(next(iter(objects[0].values())))
        counts = np.array([len(found) for found in objects])
        sums = np.array([[sum(values[name] for values in found.values()) for name in names] for found in objects])
        draws = resamples(len(records))
        resampled = draws @ sums / (draws @ counts)[:, None]
        figures: dict[str, Any] = {n: float(v) for n, v in zip(names, sums.sum(0) / counts.sum(), strict=True)}
        figures |= {f"{name}_interval": interval(resampled[:, i], len(records)) for i, name in enumerate(names)}
        means = (sums / counts[:, None]).tolist()
        videos = [record["video"] for record in records]
        return figures | {
            "per_video": {video: dict(zip(names, row, strict=True)) for video, row in zip(videos, means, strict=True)},
            "per_object": {
                f"{video}_{label}": values
                for video, found in zip(videos, objects, strict=True)
                for label, values in found.items()
            },
        }


class SemanticVideos:
    """VSPW's mIoU and VC_n of label maps."""

    RANKED_BY = "miou"

    @staticmethod
    def record(video: str, labels: VideoLabels) -> dict[str, Any]:
        """Measures one video, all frames but the first. VSPW marks void by 0 as well as by 255."""
        truth = np.where(labels.truth == 0, IGNORE_LABEL, labels.truth)
        record: dict[str, Any] = {"video": video}
        for rules in RULES:
            metrics = VSPWMetrics(_VC_SIZES, rules=rules)
            metrics.update(video, labels.predicted, truth)
            record[rules] = metrics.state()
        return record

    @staticmethod
    def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Mean IoU and VC_n over all videos in percent, with 95 % intervals from resampled videos; "per_video".

        A VC_n is None where all videos are too short for it, and a video's mIoU where all its pixels are void.
        """
        ours, public = (_merged([record[rules] for record in records]).result(allow_missing=True) for rules in RULES)
        figures = ours | {f"vc{n}_vspw_code": public[f"vc{n}"] for n in _VC_SIZES}
        states = [record[RULES[0]] for record in records]
        areas = np.stack([_merged([state]).areas() for state in states])
        values, labelled = _miou(areas), areas[:, 1].sum(-1) > 0
        figures["per_video"] = {
            record["video"]: {"miou": float(value) if known else None}
            for record, value, known in zip(records, values, labelled, strict=True)
        }
        return figures | _semantic_intervals(states, areas)


def _merged(states: Sequence[dict[str, Any]]) -> VSPWMetrics:
    """The sums over all videos; the rules that counted windows no longer matter."""
    metrics = VSPWMetrics(_VC_SIZES)
    for state in states:
        metrics.add_state(state)
    return metrics


def _miou(areas: np.ndarray) -> np.ndarray:
    """Percent, over the labels of the truth, of areas [..., 3, 256]; 0 where it has none."""
    inter, true_area, predicted_area = np.moveaxis(areas, -2, 0)
    present = true_area > 0
    iou = np.where(present, inter / np.maximum(true_area + predicted_area - inter, 1), 0)
    return 100 * iou.sum(-1) / np.maximum(present.sum(-1), 1)


def _semantic_intervals(states: Sequence[Mapping[str, Any]], areas: np.ndarray) -> dict[str, list[float] | None]:
    """95 % intervals of mIoU and VC_n from resampled videos; a resample without a window has no VC_n to count."""
    draws = resamples(len(states))
    intervals = {"miou_interval": interval(_miou(np.einsum("bv,val->bal", draws, areas)), len(states))}
    for i, n in enumerate(_VC_SIZES):
        shares = [next(iter(state["shares"].values()))[i] for state in states]
        totals, counts = draws @ [sum(s) for s in shares], draws @ [len(s) for s in shares]
        some = counts > 0
        intervals[f"vc{n}_interval"] = interval(100 * totals[some] / counts[some], sum(map(bool, shares)))
    return intervals


MEASURES: dict[str, type[ObjectVideos] | type[SemanticVideos]] = {"objects": ObjectVideos, "semantic": SemanticVideos}
