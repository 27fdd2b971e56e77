"""From a query and a session's prompts to images for the page and a file to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldis_jax.demo.uploads import PaintedPrompt, reduced
from ldis_jax.errors import LDISError
from ldis_jax.media.legends import Legend
from ldis_jax.media.masks import IGNORE_LABEL, labels_in
from ldis_jax.media.overlays import PALETTE, magnify, overlay, overlay_labels, probability_image
from ldis_jax.pipeline import LDISPipeline

_MAX_PROMPTS, _MAX_LABELS = 16, 64
_LABEL_PIXELS = 200_000  # of a label map that is shown, about as large as the page shows it: names in it can be read


@dataclasses.dataclass(frozen=True)
class ImageResult:
    """The images and figures that the page shows for one query.

    Attributes:
        overlay: uint8 [H', W', 3], the query and the objects.
        mask: uint8 [H', W', 3], the objects in their colours on black (white where there is one class).
        probability: uint8 [H', W', 3], of the label that each pixel has been given or, of one class, of the object.
        pseudo_mask: uint8 [S', S', 3], None of several classes.
        shares: class name -> share of the image.
        scores: class name -> expected IoU of its mask.
        file: the mask (0 and 255) or label map as a PNG; None of unfinished results.
    """

    overlay: np.ndarray
    mask: np.ndarray
    probability: np.ndarray
    pseudo_mask: np.ndarray | None
    shares: Mapping[str, float]
    scores: Mapping[str, float]
    file: Path | None = None


def add_prompt(prompts: Sequence[PaintedPrompt], prompt: PaintedPrompt) -> list[PaintedPrompt]:
    """The session's prompts and one more.

    Raises:
        LDISError: there are too many, or of more classes than there are colours.
    """
    prompts = [*prompts, prompt]
    if len(prompts) > _MAX_PROMPTS or len(by_class(prompts)) > len(PALETTE):
        raise LDISError(f"{_MAX_PROMPTS} prompts of {len(PALETTE)} classes are the most; remove some")
    return prompts


def by_class(prompts: Sequence[PaintedPrompt]) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """(image, mask) pairs of every class name, in the order they came."""
    classes: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for prompt in prompts:
        classes.setdefault(prompt.class_name, []).append((prompt.image, prompt.mask))
    return classes


def overlaid(prompts: Sequence[PaintedPrompt]) -> list[np.ndarray]:
    """Each prompt with its object in the colour of its class, uint8 [H', W', 3]; small ones are magnified."""
    colours = dict(zip(by_class(prompts), PALETTE, strict=False))
    return [overlay(magnify(each.image), magnify(each.mask) == 1, colours[each.class_name]) for each in prompts]


def label_choices(labels: np.ndarray, image: np.ndarray | None) -> tuple[dict[int, float], np.ndarray]:
    """The labels to choose from in a mask of several.

    Args:
        labels: integers [H, W].
        image: of the mask, uint8 [H, W, 3]; where there is none, or of another size, labels are shown on black.

    Returns:
        label -> share of the image, and the labels in colours with a legend, uint8 [H', W', 3].
    """
    values = labels_in(labels)[:_MAX_LABELS]
    places = np.minimum(np.searchsorted(values, labels), len(values) - 1)
    ordered = np.where(np.array(values)[places] == labels, places + 1, 0).astype(np.uint8)
    counts = np.bincount(ordered.ravel())[1:].tolist()
    if image is None or image.shape[:2] != labels.shape:
        image = np.zeros((*labels.shape, 3), np.uint8)
    image, ordered = map(magnify, reduced(image, ordered, _LABEL_PIXELS))
    legend = Legend({place: str(value) for place, value in enumerate(values, 1)}, ordered)
    shares = {value: count / labels.size for value, count in zip(values, counts, strict=True)}
    return shares, legend.draw(overlay_labels(image, ordered))


def segment(
    pipe: LDISPipeline, query: np.ndarray, prompts: Sequence[PaintedPrompt], folder: Path, **options: Any
) -> Iterator[ImageResult]:
    """Segments a query, uint8 [H, W, 3]: of one class step by step, of several at once.

    The last result's file is ``mask.png`` or ``label_map.png`` in the folder.

    Raises:
        LDISError: an option that is none.
    """
    classes = by_class(prompts)
    if len(classes) > 1:
        result = pipe.segment_classes(query, classes, ignore_label=IGNORE_LABEL, **options)
        result.save(folder / "label_map.png")
        scores = dict(zip(classes, result.scores, strict=True))
        shown = _shown(query, scores, result.label_map, result.probabilities.max(0))
        yield dataclasses.replace(shown, file=folder / "label_map.png")
        return
    [pairs] = classes.values()
    for one in pipe.segment_steps(query, pairs, ignore_label=IGNORE_LABEL, **options):
        scores = dict.fromkeys(classes, one.score)
        shown = _shown(query, scores, one.mask.astype(np.uint8), one.probability, one.pseudo_mask)
        yield shown
    one.save(folder / "mask.png")
    yield dataclasses.replace(shown, file=folder / "mask.png")


def _shown(
    query: np.ndarray,
    scores: Mapping[str, float],
    labels: np.ndarray,
    probability: np.ndarray,
    pseudo_mask: np.ndarray | None = None,
) -> ImageResult:
    """Small images are magnified, so that a browser does not blur them."""
    names = tuple(scores)
    colours = PALETTE if len(names) > 1 else np.full((1, 3), 255, np.uint8)
    large = magnify(labels)
    return ImageResult(
        overlay=overlay_labels(magnify(query), large) if len(names) > 1 else overlay(magnify(query), large == 1),
        mask=np.concatenate([np.zeros((1, 3), np.uint8), colours])[large],
        probability=probability_image(magnify(probability)),
        pseudo_mask=None if pseudo_mask is None else magnify(pseudo_mask),
        shares={name: float((labels == label).mean()) for label, name in enumerate(names, 1)},
        scores=scores,
    )
