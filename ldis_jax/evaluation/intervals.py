"""Figures of an evaluation with bootstrap intervals, from its records."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldis_jax.evaluators.absence import Scored, absence_figures, calibration_error, reliability
from ldis_jax.evaluators.mean_iou import class_iou, mean_iou

_RESAMPLES = 1000
_LEVEL = 0.95


def image_figures(records: Sequence[dict[str, Any]], accumulation: str) -> dict[str, Any]:
    """MIoU and FB-IoU of episodes, with 95 % intervals from 1000 resamples of each class's episodes (seed 0).

    Args:
        records: {"class_id", "areas": [[I, U], [I, U]]} an episode, background first.
        accumulation: "ldis" or "hsnet".

    Returns:
        {"miou", "miou_interval": [low, high], "fb_iou", "fb_iou_interval", "iou_per_class": {class id: percent}},
        in percent.
    """
    classes, areas, resampled = _bootstrap(records, accumulation)
    miou, fb_iou = mean_iou(areas, accumulation)
    iou = 100.0 * class_iou(areas, accumulation)
    return {
        "miou": float(miou),
        "miou_interval": interval(resampled[0], len(records)),
        "fb_iou": float(fb_iou),
        "fb_iou_interval": interval(resampled[1], len(records)),
        "iou_per_class": {int(c): float(v) for c, v in zip(classes, iou, strict=True) if not np.isnan(v)},
    }


def miou_gain(
    first: Sequence[dict[str, Any]],
    second: Sequence[dict[str, Any]],
    accumulation: str,
    folds: Sequence[int] | None = None,
) -> dict[str, float | list[float] | None]:
    """How much the mIoU of ``second`` exceeds that of ``first``, both of the same queries in the same order.

    A resample draws the same queries of both, so that the interval is that of the difference.

    Args:
        first: records, as of :func:`image_figures`.
        second: those of the other model.
        accumulation: "ldis" or "hsnet".
        folds: number of episodes of each fold, in order; the gain is then the mean over them. None: all are one.

    Returns:
        {"gain", "gain_interval": [low, high]}, in points of percent.
    """
    (points, resampled), (second_points, second_resampled) = (
        _over_folds(_split(records, folds or [len(records)]), accumulation) for records in (first, second)
    )
    gain = second_points[0] - points[0]
    return {"gain": float(gain), "gain_interval": interval(second_resampled[0] - resampled[0], len(first))}


def mean_of_folds(folds: Sequence[Sequence[dict[str, Any]]], accumulation: str) -> dict[str, Any]:
    """Means over folds of mIoU and FB-IoU, with intervals of the mean: every fold is resampled by itself.

    Args:
        folds: records of each, as of :func:`image_figures`.
        accumulation: "ldis" or "hsnet".

    Returns:
        {"miou", "miou_interval": [low, high], "fb_iou", "fb_iou_interval"}, in percent.
    """
    points, resampled = _over_folds(folds, accumulation)
    count = sum(map(len, folds))
    found: dict[str, Any] = {}
    for name, value, values in zip(("miou", "fb_iou"), points, resampled, strict=True):
        found |= {name: float(value), f"{name}_interval": interval(values, count)}
    return found


def score_figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Quality of the scores, with 95 % intervals from 1000 separate resamples of present and absent episodes.

    Args:
        records: "score", "iou", "covered" and "absent" an episode, as of :class:`~ldis_jax.evaluators.absence.Scored`.

    Returns:
        "ece"; where some objects are absent also "false_alarms", "rendered_area" and "auroc", as
        :func:`~ldis_jax.evaluators.absence.absence_figures` says, each with "NAME_interval"; and "reliability", rows of
        (mean score, mean IoU, episodes).
    """
    score, iou, covered, absent = (np.array([record[name] for record in records]) for name in Scored._fields)
    kinds = [np.flatnonzero(kind) for kind in (~absent, absent) if kind.any()]
    draws = np.concatenate([_drawn(rows, seed) for seed, rows in enumerate(kinds)], axis=1)

    def figures(rows: np.ndarray) -> dict[str, float]:
        if not absent.any():
            return {"ece": calibration_error(score[rows], iou[rows])}
        return absence_figures(score[rows], iou[rows], covered[rows], absent[rows])

    found: dict[str, Any] = {}
    resampled = [figures(rows) for rows in draws]
    for name, value in figures(np.arange(len(records))).items():
        found |= {name: value, f"{name}_interval": interval(np.array([f[name] for f in resampled]), len(records))}
    return found | {"reliability": reliability(score, iou)}


def _drawn(rows: np.ndarray, seed: int) -> np.ndarray:
    """1000 draws of as many of ``rows`` with replacement, [1000, len(rows)]."""
    rng = np.random.Generator(np.random.Philox(key=[1, seed]))
    return rows[rng.integers(len(rows), size=(_RESAMPLES, len(rows)))]


def _bootstrap(
    records: Sequence[dict[str, Any]], accumulation: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Classes [C], their summed areas [C, 2, 2], and (mIoU, FB-IoU) of 1000 resamples, [1000] each.

    Class c of the C is resampled with the seed ``seed + c``.
    """
    ids = np.array([record["class_id"] for record in records])
    areas = np.array([record["areas"] for record in records], np.float64)  # [N, 2, 2]
    classes, members = np.unique(ids, return_inverse=True)
    one_hot = np.eye(len(classes))[members]  # [N, C]

    def summed(counts: np.ndarray) -> np.ndarray:
        """Areas by class [..., C, 2, 2] where episode n counts ``counts[..., n]`` times."""
        return np.einsum("...n,nc,nij->...cij", counts, one_hot, areas, optimize=True)

    # Within each class, for mIoU is a mean over classes: a class that a resample misses would count as 0.
    draws = np.zeros((_RESAMPLES, len(records)))
    for c, column in enumerate(one_hot.T):
        draws[:, column > 0] = resamples(int(column.sum()), seed=seed + c)
    return classes, summed(np.ones(len(records))), mean_iou(summed(draws), accumulation)


def _over_folds(folds: Sequence[Sequence[dict[str, Any]]], accumulation: str) -> tuple[np.ndarray, np.ndarray]:
    """Means over folds of (mIoU, FB-IoU) [2], and of 1000 resamples [2, 1000]; no two classes share a seed."""
    points, resampled, seed = [], [], 0
    for records in folds:
        classes, areas, of_fold = _bootstrap(records, accumulation, seed)
        points.append(mean_iou(areas, accumulation))
        resampled.append(of_fold)
        seed += len(classes)
    return np.mean(points, 0), np.mean(resampled, 0)


def _split(records: Sequence[dict[str, Any]], counts: Sequence[int]) -> list[Sequence[dict[str, Any]]]:
    ends = list(itertools.accumulate(counts))
    return [records[end - count : end] for end, count in zip(ends, counts, strict=True)]


def resamples(count: int, seed: int = 0) -> np.ndarray:
    """How often each of ``count`` items is drawn in 1000 resamples with replacement: float64 [1000, count]."""
    rng = np.random.Generator(np.random.Philox(key=[0, seed]))
    return rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES).astype(np.float64)


def interval(values: np.ndarray, count: int) -> list[float] | None:
    """The central 95 % of resampled figures; None of fewer than two items, which say nothing about others."""
    if count < 2:
        return None
    tail = 50.0 * (1 - _LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return [float(low), float(high)]
