"""How good a mask is, and whether its object is there at all: the expected IoU, from what the network says itself.

Where pixel i is object with probability p_i, independently of the others, a mask M can expect to share
sum_{i in M} p_i pixels with the object and to cover |M| + sum_{i not in M} p_i together with it. The quotient is the
expected IoU, to first order. A network's p are neither calibrated nor independent, so that it is mapped to the IoU that
held-out episodes had.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.optimize import isotonic_regression

from ldis_jax.errors import LDISError
from ldis_jax.support.checks import check_fields, check_number

_MOST_PIXELS = 1 << 16  # that a score is made of
_SHARPNESS = 3.0  # where none was fitted: R[1] - R[0] of a certain pixel is 2, and its probability then 0.998
_SHARPNESSES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
_KNOTS = 12
_MOST_LOST = 0.01  # of the mean IoU of present objects, to the default threshold
_PRIOR = 0.5  # of an episode, at each knot from 0 to 1: the IoU is the expected one unless episodes say otherwise


class Measured(NamedTuple):
    """One held-out episode: the expected IoU for every sharpness that may be chosen, and the true one, 0 of absent."""

    expected: tuple[float, ...]
    iou: float
    absent: bool


@dataclasses.dataclass(frozen=True)
class Confidence:
    """Turns logits into a score. The default is not calibrated, and calls every object present.

    Attributes:
        sharpness: what logits R[1] - R[0] are multiplied by before the sigmoid.
        expected: knots of the map from expected to measured IoU, in ascending order; none where not calibrated.
        iou: the measured IoU at the knots, in ascending order.
        min_score: below it an object counts as absent.
        episodes: how many were measured.
    """

    sharpness: float = _SHARPNESS
    expected: tuple[float, ...] = ()
    iou: tuple[float, ...] = ()
    min_score: float = 0.0
    episodes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected", tuple(self.expected))
        object.__setattr__(self, "iou", tuple(self.iou))
        numbers = (self.sharpness, self.min_score, *self.expected, *self.iou)
        ascending = all(a <= b for knots in (self.expected, self.iou) for a, b in itertools.pairwise(knots))
        fits = len(self.expected) == len(self.iou) and len(self.expected) != 1 and ascending
        inside = all(0 <= value <= 1 for value in (self.min_score, *self.expected, *self.iou))
        if not (all(map(math.isfinite, numbers)) and self.sharpness > 0 and fits and inside):
            raise LDISError("confidence: expected and iou are two ascending lists of one length, all from 0 to 1")

    @property
    def is_calibrated(self) -> bool:
        """True if scores are those of held-out episodes."""
        return bool(self.expected)

    def score(self, logits: np.ndarray) -> float:
        """The expected IoU of the mask ``logits > 0`` with its object, in [0, 1]; 0 of an empty mask.

        Args:
            logits: float32 [H, W], R[1] - R[0]. Of large images every n-th row and column counts.
        """
        raw = _expected_iou(_thinned(logits), self.sharpness)
        if not self.is_calibrated or raw == 0:
            return raw
        return float(np.interp(raw, self.expected, self.iou))

    def decide(self, logits: np.ndarray, min_score: float | None = None) -> tuple[np.ndarray, float]:
        """(mask, score): ``logits > 0`` as bool [H, W], or nothing where its score is below ``min_score``.

        None takes the model's own; 0 keeps every mask.
        """
        score, mask = self.score(logits), logits > 0
        return (mask if score >= self.threshold(min_score) else np.zeros_like(mask)), score

    def threshold(self, min_score: float | None) -> float:
        """A caller's ``min_score``, or this one; raises :class:`LDISError` where it is no number from 0 to 1."""
        if min_score is None:
            return self.min_score
        if not 0 <= check_number("min_score", min_score) <= 1:
            raise LDISError(f"min_score={min_score}: must be from 0 to 1")
        return float(min_score)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a model folder keeps them."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse; raises :class:`LDISError` on an unknown key or value."""
        if not isinstance(values, Mapping):
            raise LDISError(f"confidence={values!r:.80}: must be an object of names and values")
        check_fields(cls, values, "confidence")
        return cls(**values)

    @classmethod
    def fit(cls, measured: Sequence[Measured]) -> Self:
        """The sharpness and the map with the least squared error on held-out episodes, and the threshold they call for.

        The threshold is the largest that costs present objects at most a point of mean IoU; without absent ones, 0.
        """
        iou = np.array([episode.iou for episode in measured])
        absent = np.array([episode.absent for episode in measured])
        found: list[tuple[float, float, np.ndarray, np.ndarray]] = []
        for i, sharpness in enumerate(_SHARPNESSES):
            raw = np.array([episode.expected[i] for episode in measured])
            knots, values = _isotonic(raw, iou)
            score = np.where(raw > 0, np.interp(raw, knots, values), 0.0)
            found.append((float(np.mean((score - iou) ** 2)), sharpness, knots, values))
        _, sharpness, knots, values = min(found, key=lambda item: item[0])
        raw = np.array([episode.expected[_SHARPNESSES.index(sharpness)] for episode in measured])
        score = np.where(raw > 0, np.interp(raw, knots, values), 0.0)
        least = _threshold(score, iou, absent)
        return cls(sharpness, tuple(knots.tolist()), tuple(values.tolist()), least, len(measured))


NOT_CALIBRATED = Confidence()


def measure(logits: np.ndarray, truth: np.ndarray) -> Measured:
    """Measures an episode for :meth:`Confidence.fit`, by logits float32 [H, W] and truth as of :func:`iou_of`."""
    thinned = _thinned(logits)
    expected = tuple(_expected_iou(thinned, sharpness) for sharpness in _SHARPNESSES)
    return Measured(expected, iou_of(logits > 0, truth), not (truth == 1).any())


def iou_of(mask: np.ndarray, truth: np.ndarray) -> float:
    """IoU of bool [H, W] and uint8 [H, W] in {0, 1, 255}, where 255 does not count; 0 where neither shows anything."""
    union = np.count_nonzero((mask | (truth == 1)) & (truth != 255))
    return np.count_nonzero(mask & (truth == 1)) / union if union else 0.0


def _thinned(logits: np.ndarray) -> np.ndarray:
    """Every n-th row and column of a large image, unless none of those that are left is object."""
    step = math.ceil(math.sqrt(logits.size / _MOST_PIXELS))
    thinned = logits[::step, ::step]
    return thinned if (thinned > 0).any() else logits


def _expected_iou(logits: np.ndarray, sharpness: float) -> float:
    inside = logits > 0
    if not inside.any():
        return 0.0
    probability = 1 / (1 + np.exp(np.clip(-sharpness * logits, -60, 60)))
    shared = probability[inside].sum(dtype=np.float64)
    return float(shared / (np.count_nonzero(inside) + probability[~inside].sum(dtype=np.float64)))


def _isotonic(raw: np.ndarray, iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots of the ascending map from ``raw`` to ``iou``: means over parts of as many episodes.

    Episodes without a mask have no part in it: their score is 0.
    """
    prior = np.linspace(0, 1, _KNOTS)
    found = raw > 0
    x, y = np.concatenate([raw[found], prior]), np.concatenate([iou[found], prior])
    weights = np.concatenate([np.ones(found.sum()), np.full(_KNOTS, _PRIOR)])
    order = np.argsort(x, kind="stable")
    x, y, weights = x[order], y[order], weights[order]
    fitted = isotonic_regression(y, weights=weights).x
    parts = np.array_split(np.arange(len(x)), min(_KNOTS, len(x)))
    knots, values = (np.array([np.average(v[part], weights=weights[part]) for part in parts]) for v in (x, fitted))
    knots, values = np.concatenate([[0.0], knots, [1.0]]), np.concatenate([values[:1], values, values[-1:]])
    # Means of equal numbers may differ in their last digit.
    return np.maximum.accumulate(knots), np.clip(np.maximum.accumulate(values), 0, 1)


def _threshold(score: np.ndarray, iou: np.ndarray, absent: np.ndarray) -> float:
    """Half way between two scores."""
    if not absent.any() or absent.all():
        return 0.0
    order = np.argsort(score[~absent], kind="stable")
    lost = np.cumsum(iou[~absent][order]) / len(order)
    may_go = np.searchsorted(lost, _MOST_LOST, side="right")  # present objects, the least sure first
    if may_go == len(order):
        return 0.0
    least = score[~absent][order][may_go]
    below = score[score < least]
    return float((least + below.max()) / 2) if below.size else 0.0
