"""Endless procedural episodes: cluttered images of coloured, patterned shapes, in which the prompt decides.

A class is a combination of shape, colour and pattern. A fifth of the combinations never occurs in the ``train``
split, neither as object nor as distractor; they are the ``unseen`` split. Every single shape, colour and pattern
does occur in training: what is new in ``unseen`` is their combination.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import cv2
import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.episodes import Episode
from ldis_jax.support.checks import check_choice

PATTERNS = ("plain", "striped", "cored", "rimmed")
# RGB, far apart for normal and most colour-blind eyes.
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (240, 220, 60),
    "green": (40, 150, 60),
    "cyan": (60, 200, 220),
    "blue": (40, 80, 200),
    "purple": (140, 60, 180),
    "pink": (245, 130, 190),
    "brown": (120, 75, 40),
    "white": (235, 235, 235),
}


def _polar(radii: np.ndarray) -> np.ndarray:
    angles = np.linspace(0.0, 2 * math.pi, len(radii), endpoint=False) - math.pi / 2
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _crescent() -> np.ndarray:
    outer = np.linspace(math.radians(60), math.radians(300), 24)
    inner = np.linspace(math.radians(290), math.radians(70), 24)
    a = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    b = np.stack([0.45 + 0.8 * np.cos(inner), 0.8 * np.sin(inner)], axis=1)
    return np.concatenate([a, b])


# Outlines in the unit disc.
SHAPES: dict[str, np.ndarray] = {
    "disc": _polar(np.full(32, 0.9)),
    "triangle": _polar(np.full(3, 1.0)),
    "square": _polar(np.full(4, 1.0)),
    "star": _polar(np.tile([1.0, 0.42], 5)),
    "cross": np.array(
        [
            *[(-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)],
            *[(0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33)],
        ]
    ),
    "crescent": _crescent(),
    "bar": np.array([(-1, -0.35), (1, -0.35), (1, 0.35), (-1, 0.35)]),
    "flower": _polar(0.7 + 0.3 * np.cos(np.linspace(0, 2 * math.pi, 60, endpoint=False) * 6)),
}

_SHAPES, _COLOURS = tuple(SHAPES), tuple(COLOURS)
NUM_CLASSES = len(_SHAPES) * len(_COLOURS) * len(PATTERNS)
_MAX_SCENES, _MAX_PLACES = 50, 20


def attributes(class_id: int) -> tuple[int, int, int]:
    """Class id (from 1, as label 0 is background) -> indices of (shape, colour, pattern)."""
    rest, pattern = divmod(class_id - 1, len(PATTERNS))
    shape, colour = divmod(rest, len(_COLOURS))
    return shape, colour, pattern


def class_name(class_id: int) -> str:
    """For example "striped red star"."""
    shape, colour, pattern = attributes(class_id)
    return f"{PATTERNS[pattern]} {_COLOURS[colour]} {_SHAPES[shape]}"


@functools.cache
def split_classes(split: str) -> tuple[int, ...]:
    """Class ids of "train" or "unseen": every fifth diagonal of the attribute cube is unseen."""
    unseen = {"train": False, "unseen": True}[split]
    return tuple(i for i in range(1, NUM_CLASSES + 1) if (sum(attributes(i)) % 5 == 0) == unseen)


@dataclasses.dataclass(frozen=True)
class ProceduralScenes:
    """An :class:`EpisodeSource` that paints its images.

    Attributes:
        split: "train" or "unseen"; all objects of an image come from it.
        image_size: side of an image in pixels.
        num_objects: smallest and largest number of objects in an image, of as many classes.
    """

    split: str = "train"
    image_size: int = 64
    num_objects: tuple[int, int] = (2, 4)

    num_images = 100_000  # a nominal size: sets the weight in a mixture

    def __post_init__(self) -> None:
        check_choice("split", self.split, ("train", "unseen"))

    def draw(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """One episode; the same class appears in the query and in every prompt, distractors differ."""
        class_id, *_ = self._classes(rng, 1)
        query = self.scene(rng, self._with_distractors(rng, class_id))
        return self._prompted(rng, query, class_id, num_shots)

    def draw_swap(self, rng: np.random.Generator, num_shots: int) -> tuple[Episode, Episode]:
        """Two episodes on one query image with exactly two objects: each is prompted once."""
        first, second = self._classes(rng, 2)
        query = self.scene(rng, [first, second])
        return self._prompted(rng, query, first, num_shots), self._prompted(rng, query, second, num_shots)

    def check_absent(self, num_shots: int) -> None:
        """See :class:`EpisodeSource`; a painted scene shows nothing but what its labels say."""

    def draw_absent(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """An episode whose query shows other classes only: its mask is empty."""
        low, high = self.num_objects
        class_id, *others = self._classes(rng, high + 1)
        query = self.scene(rng, others[: rng.integers(low, high + 1)])
        return self._prompted(rng, query, class_id, num_shots)

    def _prompted(
        self, rng: np.random.Generator, query: tuple[np.ndarray, np.ndarray], class_id: int, num_shots: int
    ) -> Episode:
        """The episode that asks for one class of a painted query."""
        prompts = [self.scene(rng, self._with_distractors(rng, class_id)) for _ in range(num_shots)]
        return Episode(
            query_image=query[0],
            query_mask=(query[1] == class_id).astype(np.uint8),
            prompt_images=tuple(image for image, _ in prompts),
            prompt_masks=tuple((labels == class_id).astype(np.uint8) for _, labels in prompts),
            class_id=class_id,
            class_name=class_name(class_id),
            name=class_name(class_id),
            augment=False,  # a hue tells classes apart
        )

    def scene(self, rng: np.random.Generator, classes: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Paints one object of each class, in order; at least 70 % of every object stay visible.

        Returns:
            (image uint8 [S, S, 3], labels int32 [S, S] of class ids, 0 is background).
        """
        for _ in range(_MAX_SCENES):
            image = _background(rng, self.image_size)
            labels = np.zeros((self.image_size, self.image_size), np.int32)
            areas: dict[int, int] = {}
            if all(_place_object(rng, image, labels, areas, class_id) for class_id in classes):
                return image, labels
        raise LDISError(f"{len(classes)} objects do not fit an image of {self.image_size} pixels; lower num_objects")

    def _classes(self, rng: np.random.Generator, count: int) -> list[int]:
        return [int(i) for i in rng.choice(split_classes(self.split), count, replace=False)]

    def _with_distractors(self, rng: np.random.Generator, class_id: int) -> list[int]:
        low, high = self.num_objects
        others = [c for c in self._classes(rng, high) if c != class_id]
        classes = [class_id, *others[: rng.integers(low, high + 1) - 1]]
        return [classes[i] for i in rng.permutation(len(classes))]


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A blurred random field with thin strokes and noise. uint8 [size, size, 3]."""
    coarse = rng.uniform(40, 190, (3, 3, 1)) + rng.uniform(-30, 30, (3, 3, 3))
    image = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(2, 7))):
        start, end = rng.integers(0, size, (2, 2)).tolist()
        colour = rng.integers(0, 256, 3).tolist()
        cv2.line(image, start, end, colour, max(1, size // 64), cv2.LINE_AA)
    return image


def _place_object(
    rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, areas: dict[int, int], class_id: int
) -> bool:
    """Paints one object, in place, where it hides little of the others; False if there is no such place."""
    size = labels.shape[0]
    for _ in range(_MAX_PLACES):
        radius = size * rng.uniform(0.15, 0.26)
        centre = rng.uniform(0.9 * radius, size - 0.9 * radius, 2)
        angle = rng.uniform(-0.5, 0.5) + (math.pi / 2) * rng.integers(0, 4)
        mask = _silhouette(class_id, centre, radius, angle, size)
        hidden = np.bincount(labels[mask], minlength=NUM_CLASSES + 1)
        visible = np.bincount(labels.ravel(), minlength=NUM_CLASSES + 1) - hidden
        if all(visible[other] >= 0.7 * area for other, area in areas.items()):
            _paint(rng, image, mask, class_id, centre, radius, angle)
            labels[mask] = class_id
            areas[class_id] = int(np.count_nonzero(mask))
            return True
    return False


def _silhouette(class_id: int, centre: np.ndarray, radius: float, angle: float, size: int) -> np.ndarray:
    """Bool [size, size]."""
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    outline = SHAPES[_SHAPES[attributes(class_id)[0]]] @ np.array([[cos, sin], [-sin, cos]])
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round((outline + centre) * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def _paint(
    rng: np.random.Generator,
    image: np.ndarray,
    mask: np.ndarray,
    class_id: int,
    centre: np.ndarray,
    radius: float,
    angle: float,
) -> None:
    """Fills a silhouette with the class's colour, a little off, and its pattern in a darker shade; in place."""
    _, colour, pattern = attributes(class_id)
    size = image.shape[0]
    fill = np.array(COLOURS[_COLOURS[colour]]) * rng.uniform(0.85, 1.1) + rng.uniform(-12, 12, 3)
    fill = np.clip(fill, 0, 255)
    image[mask] = fill
    if PATTERNS[pattern] == "striped":
        y, x = np.mgrid[:size, :size]
        phase = (x * math.cos(angle) + y * math.sin(angle)) / (size * 0.045) + rng.uniform(0, 2 * math.pi)
        image[mask & (np.sin(phase) > 0.2)] = 0.25 * fill
    elif PATTERNS[pattern] == "cored":
        image[mask & _silhouette(class_id, centre, 0.5 * radius, angle, size)] = 0.25 * fill
    elif PATTERNS[pattern] == "rimmed":
        image[mask & ~_silhouette(class_id, centre, 0.72 * radius, angle, size)] = 0.25 * fill
