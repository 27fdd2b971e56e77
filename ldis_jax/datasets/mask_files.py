"""Values in mask files of unknown origin, and one rule to read all masks of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldis_jax.datasets.folder_layout import Pair, Problem
from ldis_jax.errors import LDISError
from ldis_jax.media.images import checked_size, size_error
from ldis_jax.media.masks import IGNORE_LABEL, LABEL_MAP, count_values, mask_values, stored_mask

# Of datasets.pairs.MaskRule, in words.
RULES = {
    "labels": f"a pixel's value is its class: 0 background, {IGNORE_LABEL} ignored",
    "nonzero": "any value but 0 is the object",
    "half": "values from 128 on are the object: the edges are soft",
}


class Look(NamedTuple):
    """The content of a pair: height and width; values in the mask with their pixels; or ``problem`` alone."""

    size: tuple[int, int] = (0, 0)
    values: tuple[int, ...] = ()
    pixels: tuple[int, ...] = ()
    not_labels: str = ""  # why the mask cannot be a label map
    said: str = ""  # how an object's mask is read, where it is not as it looks
    problem: Problem | None = None


def look_at(pair: Pair, by_index: bool = False) -> Look:
    """Decodes both files of a pair; ``by_index`` as of :func:`~ldis_jax.media.masks.mask_values`."""
    path = pair.image
    try:
        size = checked_size(path)
        path = pair.mask
        mask, lossy = stored_mask(path)
    except LDISError as error:
        return _bad(path, error)
    if (mask.height, mask.width) != size:
        return _bad(path, size_error(path, (mask.height, mask.width), f"its image {pair.image}", size))
    found = mask_values(mask, by_index)
    if found.colours:
        text = f"{found.colours} colours beside black; paint the object in one colour on black, or save label values"
        return _bad(path, text)
    label_modes, label_map = LABEL_MAP
    not_labels = "" if mask.mode in label_modes else f"pixels of mode {mask.mode} are no {label_map}"
    if lossy:
        not_labels = "a JPEG, which invents values around objects; paint and save masks as PNG"
    elif mask.mode == "P" and (found.values != np.asarray(mask)).any():
        not_labels = "its palette does not begin with black, the background; save label values"
    values, counts = count_values(np.where(found.values >= 128, 255, 0) if lossy else found.values)
    said = "a JPEG; values from 128 on are the object" if lossy else found.said
    return Look(size, tuple(values.tolist()), tuple(counts.tolist()), not_labels, said)


def _bad(path: str, why: object) -> Look:
    return Look(problem=Problem(path, str(why).removeprefix(f"{path}: ")))


def mask_rule(looks: Sequence[Look]) -> str:
    """The key of ``RULES`` that fits all masks together."""
    totals: dict[int, int] = {}
    for look in looks:
        for value, count in zip(look.values, look.pixels, strict=True):
            totals[value] = totals.get(value, 0) + count
    shown = {value: count for value, count in totals.items() if value}
    between = {value: count for value, count in shown.items() if value != IGNORE_LABEL}
    # Some masks hold 0 and 1, others 0 and 255. There 255 is no ignored border, which lies beside an object.
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
