"""Mean IoU over classes, and foreground-background IoU.

IoU_c = sum I / sum U; mIoU is the mean over the classes that occurred, background left out. FB-IoU sums over all
classes and averages foreground and background (HSNet, "Hypercorrelation Squeeze", ICCV 2021).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.support.checks import check_choice

_PROTOCOLS = ("ldis", "hsnet")


class MeanIoU:
    """Sums intersections and unions of each class over its episodes, then divides.

    Pixels whose truth is 255 do not count. The protocols differ in a class that neither truth nor prediction ever
    shows: HSNet counts it as 0, LDIS leaves it out.
    """

    def __init__(self, protocol: str = "ldis"):
        check_choice("protocol", protocol, _PROTOCOLS)
        self.protocol = protocol
        # class id -> [[background intersection, union], [foreground intersection, union]]
        self._areas: dict[int, np.ndarray] = {}

    def update(self, prediction: np.ndarray, truth: np.ndarray, class_id: int) -> None:
        """Adds one episode; arrays and errors as of :func:`episode_areas`."""
        self._areas[class_id] = self._areas.get(class_id, 0) + episode_areas(prediction, truth)

    def merge(self, other: MeanIoU) -> None:
        """Adds another's episodes, in place; the order of merging does not matter."""
        for class_id, areas in other._areas.items():
            self._areas[class_id] = self._areas.get(class_id, 0) + areas

    def result(self) -> dict[str, Any]:
        """{"miou", "fb_iou": percent, "iou_per_class": {class id: percent}}; raises where nothing was added."""
        if not self._areas:
            raise LDISError("mean IoU of no episodes; evaluate at least one")
        classes = sorted(self._areas)
        areas = np.stack([self._areas[class_id] for class_id in classes])
        iou, (miou, fb_iou) = 100.0 * class_iou(areas, self.protocol), mean_iou(areas, self.protocol)
        per_class = {c: float(value) for c, value in zip(classes, iou, strict=True) if not np.isnan(value)}
        return {"miou": float(miou), "fb_iou": float(fb_iou), "iou_per_class": per_class}


def episode_areas(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """int64 [[background intersection, union], [foreground intersection, union]] in pixels.

    Args:
        prediction: bool [H, W].
        truth: uint8 [H, W] in {0, 1, 255}; 255 does not count.

    Raises:
        LDISError: they differ in size.
    """
    if prediction.shape != truth.shape:
        raise LDISError(
            f"prediction {prediction.shape} and truth {truth.shape} differ in size; restore the image's size first"
        )
    prediction, truth, valid = prediction.astype(bool), truth == 1, truth != 255
    areas = [
        [np.count_nonzero(valid & p & t), np.count_nonzero(valid & (p | t))]
        for p, t in ((~prediction, ~truth), (prediction, truth))
    ]
    return np.array(areas, np.int64)


def class_iou(areas: np.ndarray, protocol: str) -> np.ndarray:
    """Foreground IoU in [0, 1] of areas [..., C, 2, 2] summed by class: [..., C].

    A class that neither truth nor prediction shows is 0 under "hsnet", NaN (left out) under "ldis".
    """
    intersection, union = areas[..., 1, 0], areas[..., 1, 1]
    iou = intersection / np.maximum(union, 1)
    return iou if protocol == "hsnet" else np.where(union > 0, iou, np.nan)


def mean_iou(areas: np.ndarray, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """(mIoU, FB-IoU) in percent of areas [..., C, 2, 2] summed by class, any leading axes."""
    iou = class_iou(areas, protocol)
    present = ~np.isnan(iou)
    miou = np.where(present, iou, 0.0).sum(-1) / np.maximum(present.sum(-1), 1)
    total = areas.sum(axis=-3)
    return 100.0 * miou, 100.0 * (total[..., 0] / np.maximum(total[..., 1], 1)).mean(-1)
