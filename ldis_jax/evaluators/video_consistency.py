"""VSPW: video consistency VC_n and the mean IoU of multi-class label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.evaluators.davis import check_videos
from ldis_jax.media.masks import IGNORE_LABEL

RULES = ("all_windows", "vspw_code")  # our own, then the public code's, to compare with published figures
_LABELS = 256


def video_consistency(pred: np.ndarray, truth: np.ndarray, n: int, *, rules: str = "all_windows") -> float:
    """VC_n of one video: does the prediction stay where the truth stays (Miao et al., "VSPW", CVPR 2021)?

    In every window of n frames, of the pixels whose true label stays constant, the share whose predicted label stays
    constant too, right or wrong; the mean over windows. A window in which no true label stays does not count.

    Args:
        pred: integer [T, H, W].
        truth: integer [T, H, W]; 255 is void.
        n: frames in a window.
        rules: "all_windows": every full window counts, void pixels do not. "vspw_code": the last full window is left
            out, hence videos of n frames have none, and void is compared like any label, as in VC_perclip.py of
            github.com/VSPW-dataset/VSPW_baseline.

    Returns:
        A fraction in [0, 1].

    Raises:
        LDISError: another shape or type, shapes that differ, n < 1, unknown rules, or no window that counts.
    """
    _check_settings((n,), rules)
    [shares] = _window_shares(*check_videos(pred, truth, "biu"), (n,), rules)
    return _mean_share(shares, n)


class VSPWMetrics:
    """VC_n and mIoU over videos.

    VC_n is the mean over all windows of all videos, so that long videos weigh more. IoU sums each class's
    intersection and union over all frames of all videos; mIoU is the mean over the classes that occur in the truth,
    and pixels whose truth is 255 do not count: VSPW_baseline's "mIoU", not its "video mIOU". Label 0 is a class like
    any other; VSPW's own files mark void by 0 as well, so set it to 255 first.
    """

    def __init__(self, sizes: Sequence[int] = (8, 16), *, rules: str = "all_windows"):
        """Takes the window lengths n, in frames, and the rules of :func:`video_consistency`."""
        self.sizes, self.rules = tuple(sizes), rules
        _check_settings(self.sizes, rules)
        self._shares: dict[str, list[list[float]]] = {}  # video -> for each n, a share per window
        self._confusion = np.zeros((_LABELS, _LABELS), np.int64)  # pixels by [true label, predicted label]

    def update(self, video: str, pred: np.ndarray, truth: np.ndarray) -> None:
        """Adds one video, integers [T, H, W] in 0..255; in the truth 255 is void. Too short a one counts for mIoU only.

        Raises:
            LDISError: a bad array; a video that was added before.
        """
        pred, truth = check_videos(pred, truth, "biu", f"video {video!r}: ")
        low, high = min(pred.min(), truth.min()), max(pred.max(), truth.max())
        if low < 0 or high >= _LABELS:
            raise LDISError(f"video {video!r}: has labels {low}..{high}; map them to 0..255")
        self._add_shares({video: _window_shares(pred, truth, self.sizes, self.rules)})
        for p, t in zip(pred, truth, strict=True):
            pairs = t.astype(np.intp) * _LABELS + p.astype(np.intp)
            self._confusion += np.bincount(pairs.ravel(), minlength=_LABELS**2).reshape(_LABELS, _LABELS)

    def areas(self) -> np.ndarray:
        """Pixels by label, void truth left out: int64 [3, 256] of intersection, true area and predicted area."""
        counted = self._confusion.copy()
        counted[IGNORE_LABEL] = 0
        return np.stack([counted.diagonal(), counted.sum(axis=1), counted.sum(axis=0)])

    def state(self) -> dict[str, Any]:
        """The sums so far, JSON-able; :meth:`add_state` of equal settings takes it, in any order of parts."""
        true, predicted = np.nonzero(self._confusion)
        counts = self._confusion[true, predicted]
        confusion = np.stack([true, predicted, counts], axis=-1).tolist()
        return {"confusion": confusion, "shares": dict(self._shares)}

    def add_state(self, state: dict[str, Any]) -> None:
        """Adds what another's :meth:`state` holds, in place."""
        self._add_shares(state["shares"])
        true, predicted, counts = np.array(state["confusion"], np.int64).reshape(-1, 3).T
        self._confusion[true, predicted] += counts  # a pair of labels is in a state once

    def _add_shares(self, shares: dict[str, list[list[float]]]) -> None:
        if both := self._shares.keys() & shares.keys():
            raise LDISError(f"video {min(both)!r}: added twice; name every video apart")
        self._shares |= shares

    def result(self, *, allow_missing: bool = False) -> dict[str, Any]:
        """{"miou", "vc8", "vc16": percent, one "vc" for each size, "iou_per_class": {label: percent}}.

        Args:
            allow_missing: a VC_n without a window is None instead of an error.

        Raises:
            LDISError: no labelled pixel was added, or no window of one of the sizes.
        """
        inter, truth_areas, pred_areas = self.areas()
        if not truth_areas.any():
            raise LDISError("mIoU of no labelled pixels; add at least one video with labels other than 255")
        per_class = {
            int(label): 100.0 * float(inter[label] / (truth_areas[label] + pred_areas[label] - inter[label]))
            for label in np.flatnonzero(truth_areas)
        }
        # Sorted, so that the sums round alike in any order of updates and merges.
        videos = [shares for _, shares in sorted(self._shares.items())]
        windows = {n: [share for shares in videos for share in shares[i]] for i, n in enumerate(self.sizes)}
        consistency = {
            f"vc{n}": None if allow_missing and not shares else 100.0 * _mean_share(shares, n)
            for n, shares in windows.items()
        }
        return {"miou": float(np.mean(list(per_class.values())))} | consistency | {"iou_per_class": per_class}


def _window_shares(pred: np.ndarray, truth: np.ndarray, sizes: Sequence[int], rules: str) -> list[list[float]]:
    """The share of every window that counts, in order of time, for each n."""
    shares: list[list[float]] = [[] for _ in sizes]
    # The frame since which a pixel has kept its label: it stays constant in a window that starts there or later.
    pred_since, truth_since = np.zeros(pred.shape[1:], np.int32), np.zeros(truth.shape[1:], np.int32)
    last = len(truth) - (2 if rules == "vspw_code" else 1)
    for end in range(last + 1):
        if end:
            pred_since[pred[end] != pred[end - 1]] = end
            truth_since[truth[end] != truth[end - 1]] = end
        if rules == "all_windows":
            truth_since[truth[end] == IGNORE_LABEL] = end + 1  # no window with this frame counts the pixel
        for n, values in zip(sizes, shares, strict=True):
            start = end - n + 1  # before the first frame no pixel is stable
            if num_stable := np.count_nonzero(stable := truth_since <= start):
                values.append(np.count_nonzero(stable & (pred_since <= start)) / num_stable)
    return shares


def _mean_share(shares: list[float], n: int) -> float:
    if not shares:
        raise LDISError(
            f"VC{n}: no window of {n} frames has a pixel of constant label; pass longer videos or a lower n"
        )
    return float(np.mean(shares))


def _check_settings(sizes: Sequence[int], rules: str) -> None:
    if rules not in RULES or not all(isinstance(n, int | np.integer) and n >= 1 for n in sizes):
        raise LDISError(f"n={sizes}, rules={rules!r}: need whole numbers of frames from 1 on, and one of {RULES}")
