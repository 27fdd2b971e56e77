"""Does a model say that an object is not there, and is its score worth something?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

ALARM = 0.001  # share of the image above which a mask of an absent object is a false alarm
BINS = 10


class Scored(NamedTuple):
    """One episode: its score, the IoU of its mask before any threshold, the share of the image that is left of it."""

    score: float
    iou: float
    covered: float
    absent: bool


def columns(scored: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Its fields as arrays [N]."""
    score, iou, covered, absent = map(np.array, zip(*scored, strict=True))
    return score, iou, covered, absent


def absence_figures(score: np.ndarray, iou: np.ndarray, covered: np.ndarray, absent: np.ndarray) -> dict[str, float]:
    """Figures of episodes of which some, or all, ask for what is not there; the fields of :class:`Scored`, [N] each.

    Returns:
        "false_alarms", the percentage of absent objects whose mask covers more than 0.1 % of the image;
        "rendered_area", the mean percentage of the image that their masks cover. With present objects beside them also
        "auroc", the probability that a present object scores higher than an absent one (ties count half), and "ece",
        the expected calibration error of the score against IoU, which is 0 of an absent object.
    """
    found = {
        "false_alarms": 100 * float((covered[absent] > ALARM).mean()),
        "rendered_area": 100 * float(covered[absent].mean()),
    }
    if absent.all():
        return found
    return found | {"auroc": auroc(score[~absent], score[absent]), "ece": calibration_error(score, iou)}


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The area under the ROC curve, by ranks (Mann and Whitney's U)."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    wins = ranks.sum() - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def reliability(score: np.ndarray, iou: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean score, mean IoU, episodes) of each of ten equal intervals of the score that has any."""
    rows = np.minimum((np.asarray(score) * BINS).astype(int), BINS - 1)
    return [
        (float(score[rows == row].mean()), float(iou[rows == row].mean()), int((rows == row).sum()))
        for row in np.unique(rows)
    ]


def calibration_error(score: np.ndarray, iou: np.ndarray) -> float:
    """The mean distance of score and IoU over :func:`reliability`'s intervals, weighted by their episodes."""
    return sum(abs(mean - true) * count for mean, true, count in reliability(score, iou)) / len(score)
