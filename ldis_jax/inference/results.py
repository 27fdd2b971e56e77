"""Results of a prediction: NumPy arrays, plain and picklable."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.media.images import ImageSource, read_image, read_note, write_png
from ldis_jax.media.legends import Legend
from ldis_jax.media.overlays import LABEL_COLOURS, overlay, overlay_labels
from ldis_jax.support.files import StrPath
from ldis_jax.support.json_files import parse_json
from ldis_jax.tasks.confidence import Confidence

SCORES = "ldis_jax scores"  # the note of a mask's PNG
_PART = 1 << 22  # pixels whose probabilities are computed at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """One query segmented by prompts of one class.

    Attributes:
        mask: bool [H, W] at the query's own size; empty where the object is not there.
        probability: float32 [H, W], sigmoid(R[1] - R[0]); kept where the mask is empty.
        pseudo_mask: uint8 [S, S, 3], what the decoder rendered.
        score: the expected IoU of ``probability > 0.5`` with the object, in [0, 1].
        is_calibrated: whether the score was fitted to held-out episodes; else it is a rough guide.
    """

    mask: np.ndarray
    probability: np.ndarray
    pseudo_mask: np.ndarray
    score: float
    is_calibrated: bool

    @property
    def present(self) -> bool:
        """True if the object is in the image: the mask is not empty."""
        return bool(self.mask.any())

    def overlay(self, query: ImageSource) -> np.ndarray:
        """The query with the object tinted and outlined, uint8 [H, W, 3]."""
        image = read_image(query)
        if image.shape[:2] != self.mask.shape:
            raise LDISError(f"overlay: image is {image.shape[:2]}, mask is {self.mask.shape}; pass the same query")
        return overlay(image, self.mask)

    def save(self, path: StrPath) -> None:
        """Writes the mask as a PNG of 0 and 255, and its score in it; raises :class:`LDISError` on another ending."""
        write_png(_png(path), self.mask, notes=_score_note([self.score]))

    def __repr__(self) -> str:
        height, width = self.mask.shape
        covers = f"object covers {100 * self.mask.mean():.1f} %" if self.present else "no object"
        return f"Segmentation({width}x{height}, {covers}, score {self.score:.2f})"


@dataclasses.dataclass(frozen=True, eq=False)
class ClassSegmentation:
    """One query segmented into several classes (paper eq. 7).

    Attributes:
        label_map: uint8 [H, W]; 0 is background, c is ``class_names[c - 1]``. Also ``np.asarray(result)``.
        probabilities: float32 [C + 1, H, W], background first; they sum to 1.
        class_names: the classes in the order they were given.
        scores: of each class the expected IoU of its own mask, in [0, 1]; a class that is not there takes no pixel.
        is_calibrated: as of :class:`Segmentation`.
    """

    label_map: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    scores: tuple[float, ...]
    is_calibrated: bool

    @classmethod
    def of_logits(
        cls, logits: np.ndarray, names: Iterable[str], confidence: Confidence, min_score: float | None = None
    ) -> Self:
        """Takes the logits R[1] - R[0] of each class, [C, H, W]."""
        probabilities, scores = class_probabilities(logits), tuple(map(confidence.score, logits))
        there = [0, *(c for c, score in enumerate(scores, 1) if score >= confidence.threshold(min_score))]
        kept = probabilities if len(there) == len(probabilities) else probabilities[there]
        label_map = np.array(there, np.uint8)[kept.argmax(0)]
        return cls(label_map, probabilities, tuple(names), scores, confidence.is_calibrated)

    def overlay(self, query: ImageSource) -> np.ndarray:
        """The query with every class in a colour of its own, uint8 [H, W, 3]; of several, those found are named."""
        tinted = overlay_labels(read_image(query), self.label_map)
        if len(self.class_names) == 1:
            return tinted
        found = {int(label): self.class_names[label - 1] for label in np.unique(self.label_map) if label}
        return Legend(found, self.label_map).draw(tinted)

    def save(self, path: StrPath) -> None:
        """Writes the label map as a PNG in colours, whose values are the labels, and scores in it; raises as above."""
        write_png(_png(path), self.label_map, LABEL_COLOURS, _score_note(self.scores))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.label_map, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        return f"ClassSegmentation({width}x{height}, classes {', '.join(self.class_names)})"


def _score_note(scores: Sequence[float]) -> dict[str, str]:
    return {SCORES: json.dumps([round(score, 4) for score in scores])}


def read_scores(path: StrPath) -> list[float] | None:
    """The scores in a mask that was saved, one a class; None where there are none."""
    try:
        return parse_json(read_note(path, SCORES) or "", list[float])
    except ValueError:
        return None


def _png(path: StrPath) -> StrPath:
    if not os.fspath(path).lower().endswith(".png"):
        raise LDISError(f"{path}: masks are PNG files; end the name in .png")
    return path


def class_probabilities(logits: np.ndarray) -> np.ndarray:
    """Eq. 7 as a softmax over [0, R_1[1] - R_1[0], ...], which cannot overflow: [C, ...] -> float32 [C + 1, ...]."""
    probabilities = np.empty((len(logits) + 1, *logits.shape[1:]), np.float32)
    given, made = (array.reshape(len(array), -1) for array in (logits, probabilities))
    for start in range(0, given.shape[1], _PART):  # large images make large arrays in between
        part = slice(start, start + _PART)
        padded = np.concatenate([np.zeros_like(given[:1, part]), given[:, part]])
        weights = np.exp(padded - padded.max(axis=0, keepdims=True))
        made[:, part] = weights / weights.sum(axis=0, keepdims=True)
    return probabilities
