"""What mask files of unknown making hold, and how all of a folder are to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldis_jax.datasets.folder_layout import Pair, Problem
from ldis_jax.errors import LDISError
from ldis_jax.media.images import IGNORE_LABEL, LABEL_MAP, LOSSY, checked_size, read_stored_mask, size_error

# Of datasets.pairs.MASK_RULES, in words.
RULES = {
    "labels": f"a pixel's value is its class: 0 background, {IGNORE_LABEL} ignored",
    "nonzero": "any value but 0 is the object",
    "half": "values from 128 on are the object: the edges are soft",
}


class Look(NamedTuple):
    """What a pair holds: height and width; values in the mask with their pixels; or ``problem`` alone."""

    size: tuple[int, int] = (0, 0)
    values: tuple[int, ...] = ()
    pixels: tuple[int, ...] = ()
    not_labels: str = ""  # why the mask cannot be a label map
    problem: Problem | None = None


def look_at(pair: Pair) -> Look:
    """Decodes both files of a pair."""
    path = pair.image
    try:
        size = checked_size(path)
        path = pair.mask
        mask = read_stored_mask(path)
    except LDISError as error:
        return _bad(path, error)
    if mask.format in LOSSY:
        return _bad(path, "a JPEG, which invents values around objects; paint and save masks as PNG")
    if (mask.height, mask.width) != size:
        return _bad(path, size_error(path, (mask.height, mask.width), f"its image {pair.image}", size))
    label_modes, label_map = LABEL_MAP
    not_labels = "" if mask.mode in label_modes else f"pixels of mode {mask.mode} are no {label_map}"
    values, colours = stored_values(mask)
    if colours > 1:
        text = f"{colours} colours beside black; paint the object in one colour on black, or save label values"
        return _bad(path, text)
    return Look(size, *_counted(values), not_labels)


def stored_values(mask: Image.Image) -> tuple[np.ndarray, int]:
    """One value a pixel, [H, W]: grey or the index as it is stored, alpha left out; of colours, 255 where not black.

    With it comes how many colours beside black there are; 0 of a mask without colours.
    """
    array = np.asarray(mask)
    if array.ndim == 2:
        return array, 0
    array = array[..., : 3 if array.shape[-1] > 2 else 1]
    if (array == array[..., :1]).all():
        return array[..., 0], 0
    codes = array @ np.array([1 << 16, 1 << 8, 1])
    return np.where(codes > 0, 255, 0), int(np.count_nonzero(np.unique(codes)))


def _bad(path: str, why: object) -> Look:
    return Look(problem=Problem(path, str(why).removeprefix(f"{path}: ")))


def _counted(array: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The values of an array, ascending, and how often each is there."""
    if array.dtype.itemsize == 1:
        counts = np.bincount(array.ravel())
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(array, return_counts=True)
    return tuple(values.tolist()), tuple(counts.tolist())


def mask_rule(looks: Sequence[Look]) -> str:
    """The key of ``RULES`` that fits all masks together."""
    totals: dict[int, int] = {}
    for look in looks:
        for value, count in zip(look.values, look.pixels, strict=True):
            totals[value] = totals.get(value, 0) + count
    shown = {value: count for value, count in totals.items() if value}
    between = {value: count for value, count in shown.items() if value != IGNORE_LABEL}
    # Some of 0 and 1, others of 0 and 255: who has an ignored border has it beside the object.
    mixed = len(shown) == 2 and IGNORE_LABEL in shown and not any(shown.keys() <= set(look.values) for look in looks)
    if len(shown) <= 1 or mixed:
        return "nonzero"
    # Smoothed or scaled masks of 255 have all greys at their edges; label maps with much ignored have low labels.
    soft = sum(between.values()) < shown.get(IGNORE_LABEL, 0) / 2 and max(between) >= 128
    return "half" if soft and max(between) < IGNORE_LABEL else "labels"


def label_pixels(look: Look, rule: str, object_label: int) -> dict[int, int]:
    """Pixels by label of a mask read by a rule; its object, where the rule is not "labels", has ``object_label``."""
    if rule == "labels":
        return dict(zip(look.values, look.pixels, strict=True))
    least, found = 128 if rule == "half" else 1, {0: 0, object_label: 0}
    for value, count in zip(look.values, look.pixels, strict=True):
        found[object_label if value >= least else 0] += count
    return {label: count for label, count in found.items() if count}
