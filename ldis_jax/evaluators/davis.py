"""DAVIS: region similarity J, boundary accuracy F, and their statistics over sequences."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from ldis_jax.errors import LDISError


def jaccard(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """J, the IoU of each frame; 1 where both masks are empty (Perazzi et al., CVPR 2016, section 4).

    Args:
        pred: bool [T, H, W].
        truth: bool [T, H, W].

    Returns:
        float64 [T] in [0, 1].

    Raises:
        LDISError: another shape or type, or shapes that differ.
    """
    pred, truth = check_videos(pred, truth, "b")
    areas = [(np.count_nonzero(p & t), np.count_nonzero(p | t)) for p, t in zip(pred, truth, strict=True)]
    return np.array([inter / union if union else 1.0 for inter, union in areas])


def boundary_f(pred: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> np.ndarray:
    """F, the F-measure of each frame's boundary pixels.

    Precision is the share of predicted boundary pixels at most r pixels from a true one, recall the reverse, with
    r = ceil(tolerance * frame diagonal); 8 pixels at 854x480. As in the DAVIS toolkits, a mask that is empty or fills
    the frame has no boundary; F is 1 where neither mask has one, and 0 where one has.

    Arguments, result and errors are those of :func:`jaccard`; ``tolerance`` is a share of the diagonal if < 1, else
    pixels.
    """
    pred, truth = check_videos(pred, truth, "b")
    radius = math.ceil(tolerance if tolerance >= 1 else tolerance * math.hypot(*pred.shape[1:]))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return np.array([_frame_f(_boundary(p), _boundary(t), disk) for p, t in zip(pred, truth, strict=True)])


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or both; bool [H, W] -> uint8 [H, W] in {0, 1}.

    That is max - min over 2x2 windows. OpenCV's border never wins a max or min, so that the last row and column
    look at the neighbours they have.
    """
    window = np.ones((2, 2), np.uint8)
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, window, anchor=(0, 0))


def _frame_f(pred: np.ndarray, truth: np.ndarray, disk: np.ndarray) -> float:
    num_pred, num_truth = np.count_nonzero(pred), np.count_nonzero(truth)
    if not num_pred or not num_truth:
        return float(num_pred == num_truth)
    precision = np.count_nonzero(pred & cv2.dilate(truth, disk)) / num_pred
    recall = np.count_nonzero(truth & cv2.dilate(pred, disk)) / num_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mean_recall_decay(values: np.ndarray) -> tuple[float, float, float]:
    """The toolkits' statistics of one sequence's J or F; float [T], T >= 1, each in [0, 1].

    Returns:
        The mean; the share of frames above 0.5; the mean of the first quarter less that of the last, in [-1, 1].
        Neighbouring quarters share a frame, and half frames round up (the toolkits' port of MATLAB's rounding).
    """
    ends = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    decay = np.mean(values[ends[0] : ends[1] + 1]) - np.mean(values[ends[3] : ends[4] + 1])
    return float(np.mean(values)), float(np.mean(values > 0.5)), float(decay)


class DavisMetrics:
    """J and F over sequences: the mean over sequences of each one's mean, recall and decay.

    This is the semi-supervised protocol of github.com/davisvideochallenge/davis2017-evaluation. DAVIS-2017 counts
    every object as a sequence of its own: name them apart, "dogs-jump_1", "dogs-jump_2".
    """

    def __init__(self, *, leave_out_ends: bool = True):
        """Takes whether each sequence's first and last frame do not count.

        The protocol leaves them out; DAVIS-2017's unsupervised protocol, and some tools, count every frame.
        """
        self.leave_out_ends = leave_out_ends
        self._frames: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # sequence -> J [T], F [T]

    def update(self, sequence: str, pred: np.ndarray, truth: np.ndarray) -> None:
        """Adds one sequence, all its frames: bool [T, H, W] each.

        Raises:
            LDISError: a bad array; no frame left to count; a sequence that was added before.
        """
        if sequence in self._frames:
            raise LDISError(f"sequence {sequence!r}: added twice; name every sequence and object apart")
        ends = np.s_[1:-1] if self.leave_out_ends else np.s_[:]
        self._frames[sequence] = jaccard(pred[ends], truth[ends]), boundary_f(pred[ends], truth[ends])

    def result(self) -> dict[str, Any]:
        """The figures, all in percent; raises where nothing was added.

        {"j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay", "j_and_f",
        "per_sequence": {sequence: the same seven}}; "j_and_f" is the mean of "j_mean" and "f_mean".
        """
        if not self._frames:
            raise LDISError("DAVIS figures of no sequences; evaluate at least one")
        per_sequence = {sequence: _figures(*values) for sequence, values in sorted(self._frames.items())}
        rows = list(per_sequence.values())
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} | {"per_sequence": per_sequence}


def _figures(j: np.ndarray, f: np.ndarray) -> dict[str, float]:
    """One sequence's seven figures, in percent."""
    figures = {
        f"{metric}_{name}": 100.0 * value
        for metric, values in (("j", j), ("f", f))
        for name, value in zip(("mean", "recall", "decay"), mean_recall_decay(values), strict=True)
    }
    return figures | {"j_and_f": (figures["j_mean"] + figures["f_mean"]) / 2}


def check_videos(pred: np.ndarray, truth: np.ndarray, kinds: str, where: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays [T, H, W] of one size, not empty, whose dtype.kind is one of ``kinds``; raises LDISError."""
    pred, truth = np.asarray(pred), np.asarray(truth)
    usable = all(array.ndim == 3 and array.size and array.dtype.kind in kinds for array in (pred, truth))
    if not usable or pred.shape != truth.shape:
        wanted = "bool" if kinds == "b" else "integer"
        raise LDISError(
            f"{where}pred is {pred.dtype} {pred.shape} and truth {truth.dtype} {truth.shape}; pass {wanted} labels "
            f"[T, H, W] of one size, not empty"
        )
    return pred, truth
