"""Findings of :mod:`ldis_jax.look_inside` as sheets of images: uint8 [H, W, 3], for a notebook or a PNG.

Maps are coloured by viridis, dark for little and bright for much; the line under a row gives its range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ldis_jax.inference.results import Segmentation
from ldis_jax.look_inside.cross_attention import CrossAttention, Place
from ldis_jax.look_inside.token_grid import TokenGrid
from ldis_jax.media.images import ImageSource, read_image
from ldis_jax.media.overlays import contact_sheet, heat_map, magnify, spotlight


def tokens_sheet(prompts: TokenGrid) -> np.ndarray:
    """A row a prompt: the image, the tokens that post-masking keeps, their cosine to the object's mean, their PCA."""
    similarity, components = prompts.similarity(), prompts.principal_components()
    low, high = float(similarity.min()), float(similarity.max())
    rows, labels = [], []
    for k, image in enumerate(prompts.images):
        kept, large = prompts.on_object[k], magnify(image)
        cosine = heat_map(large, similarity[k], low, high)
        rows.append([image, _mark(image, kept), cosine, (255 * components[k]).round().astype(np.uint8)])
        labels.append(f"prompt {k + 1}: {kept.sum()} of {kept.size} tokens are kept; cosine {low:.2f} to {high:.2f}")
    titles = ("prompt", "tokens on the object", "cosine to their mean", "first components")
    return contact_sheet(rows, titles, labels)


def attended_sheet(found: CrossAttention, places: Mapping[str, Place], layers: Sequence[str] = ()) -> np.ndarray:
    """A row a place of the query: the place, then how much the tokens of each prompt are attended to from there.

    Args:
        found: of :meth:`LookInside.cross_attention`.
        places: label -> place.
        layers: whose mean is shown; all where none is given.

    Raises:
        LDISError: as :meth:`CrossAttention.prompt_map`.
    """
    images = [magnify(image) for image in found.prompts.images]
    rows, labels = [], []
    for label, place in places.items():
        maps = found.prompt_map(place, layers)
        rows.append([_mark(found.query, found.pixels(place)), *_heat(images, maps)])
        labels.append(f"{label}: 0 to {maps.max():.2f}")
    return contact_sheet(rows, ("from here", *(f"to prompt {k + 1}" for k in range(len(images)))), labels)


def attending_sheet(
    found: CrossAttention, tokens: Mapping[str, tuple[int, int, int]], layers: Sequence[str] = ()
) -> np.ndarray:
    """A row a token: where it lies in its prompt, then how much each place of the query attends to it.

    ``tokens`` are label -> (prompt, row, column); else as :func:`attended_sheet`, with the errors of
    :meth:`CrossAttention.query_map`.
    """
    query = magnify(found.query)
    rows, labels = [], []
    for label, token in tokens.items():
        values = found.query_map(token, layers)
        prompt, row, column = token
        meant = np.zeros(found.prompts.on_object.shape[1:], bool)
        meant[row, column] = True
        heat = heat_map(query, values, values.min(), values.max())
        rows.append([_mark(found.prompts.images[prompt], meant), heat])
        labels.append(f"{label}: {values.min():.2f} to {values.max():.2f}")
    return contact_sheet(rows, ("to this token", "from the query"), labels)


def layers_sheet(found: CrossAttention, place: Place) -> np.ndarray:
    """A row a layer: how much the tokens of each prompt are attended to from a place; as :func:`attended_sheet`."""
    images = [magnify(image) for image in found.prompts.images]
    rows, labels = [], []
    for name, weights in found.weights.items():
        maps = found.prompt_map(place, [name])
        rows.append(_heat(images, maps))
        labels.append(f"{name} at {len(weights)} x {len(weights)}: 0 to {maps.max():.2f}")
    return contact_sheet(rows, [f"to prompt {k + 1}" for k in range(len(images))], labels)


def steps_sheet(query: ImageSource, steps: Sequence[Segmentation], most: int = 6) -> np.ndarray:
    """A column a denoising step: the pseudo mask that the step would end at, its probability, the mask on the query.

    ``steps`` are all those of :meth:`LDISPipeline.segment_steps` for this query; of more than ``most`` some are shown,
    the first and the last among them.
    """
    image = read_image(query)
    shown = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    chosen = [steps[i] for i in shown]
    rows = [
        [step.pseudo_mask for step in chosen],
        [heat_map(magnify(image), step.probability, 0, 1) for step in chosen],
        [_mark(image, step.mask) for step in chosen],
    ]
    labels = ["pseudo mask", "probability: 0 to 1", "mask"]
    return contact_sheet(rows, [f"step {i + 1}" for i in shown], labels)


def _heat(images: Sequence[np.ndarray], maps: np.ndarray) -> list[np.ndarray]:
    """Each image under its map, all on one scale from 0."""
    return [heat_map(image, values, 0, maps.max()) for image, values in zip(images, maps, strict=True)]


def _mark(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image, large, with all faded that is not meant; a single pixel is shown with what surrounds it."""
    large = magnify(image)
    if mask.sum() == 1:
        mask = cv2.dilate(mask.astype(np.uint8), np.ones((2 * (len(mask) // 32) + 1,) * 2, np.uint8)) > 0
    blocks = cv2.resize(mask.astype(np.uint8), large.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return spotlight(large, blocks > 0)
