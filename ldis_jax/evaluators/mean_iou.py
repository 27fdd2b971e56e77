"""Mean IoU over classes, and foreground-background IoU."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldis_jax.errors import LDISError

_PROTOCOLS = ("ldis", "hsnet")


class MeanIoU:
    """Sums intersections and unions of each class over its episodes, then divides.

    IoU_c = sum I / sum U; mIoU is the mean over the classes that occurred, background left out. FB-IoU sums over all
    classes and averages foreground and background (HSNet, "Hypercorrelation Squeeze", ICCV 2021). Pixels whose truth
    is 255 do not count. The protocols differ in a class that neither truth nor prediction ever shows: HSNet counts
    it as 0, LDIS leaves it out.
    """

    def __init__(self, protocol: str = "ldis"):
        if protocol not in _PROTOCOLS:
            raise LDISError(f"protocol={protocol!r}: must be one of {_PROTOCOLS}")
        self.protocol = protocol
        # class id -> [[background intersection, union], [foreground intersection, union]]
        self._areas: dict[int, np.ndarray] = {}

    def update(self, prediction: np.ndarray, truth: np.ndarray, class_id: int) -> None:
        """Adds one episode.

        Args:
            prediction: bool [H, W].
            truth: uint8 [H, W] in {0, 1, 255}.
            class_id: of the episode.
        """
        if prediction.shape != truth.shape:
            raise LDISError(f"prediction {prediction.shape} and truth {truth.shape} differ in size")
        prediction, truth, valid = prediction.astype(bool), truth == 1, truth != 255
        areas = [
            [np.count_nonzero(valid & p & t), np.count_nonzero(valid & (p | t))]
            for p, t in ((~prediction, ~truth), (prediction, truth))
        ]
        self._areas[class_id] = self._areas.get(class_id, 0) + np.array(areas, np.int64)

    def merge(self, other: MeanIoU) -> None:
        """Adds another's episodes, in place; the order of merging does not matter."""
        for class_id, areas in other._areas.items():
            self._areas[class_id] = self._areas.get(class_id, 0) + areas

    def result(self) -> dict[str, Any]:
        """{"miou", "fb_iou": percent, "iou_per_class": {class id: percent}}; raises where nothing was added."""
        if not self._areas:
            raise LDISError("mean IoU of no episodes; evaluate at least one")
        per_class = {
            class_id: 100.0 * float(areas[1, 0] / max(areas[1, 1], 1))
            for class_id, areas in sorted(self._areas.items())
            if self.protocol == "hsnet" or areas[1, 1] > 0
        }
        total = np.sum(list(self._areas.values()), axis=0)
        return {
            "miou": float(np.mean(list(per_class.values()))) if per_class else 0.0,
            "fb_iou": 100.0 * float(np.mean(total[:, 0] / np.maximum(total[:, 1], 1))),
            "iou_per_class": per_class,
        }
