"""An image with its mask, under one of three readings of the mask."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ldis_jax.media.images import read_image, size_error
from ldis_jax.media.masks import object_mask, read_label_map
from ldis_jax.support.files import StrPath

# labels: pixel values are labels. nonzero: any pixel but 0 is the object. half: any pixel from 128 up is, which is how
# FSS-1000's masks, smoothed at their borders, are read by everybody.
MaskRule = Literal["labels", "nonzero", "half"]


def read_pair(
    image: StrPath | bytes,
    mask: StrPath | bytes,
    rule: str = "labels",
    object_label: int = 0,
    image_name: str = "",
    mask_name: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image and its labels.

    Args:
        image: path or the bytes of the file.
        mask: likewise.
        rule: a :data:`MaskRule`.
        object_label: what object pixels become under "nonzero" and "half"; all others are 0.
        image_name: what error messages call the image, if it is bytes.
        mask_name: likewise.

    Returns:
        (uint8 [H, W, 3] RGB, integers [H, W]: uint8 for "labels", else int32).

    Raises:
        LDISError: missing or damaged; under "labels", a mask with several channels; two sizes.
    """
    pixels = read_image(image, image_name)
    labels = read_labels(mask, rule, object_label, mask_name)
    if pixels.shape[:2] != labels.shape:
        raise size_error(mask_name or mask, labels.shape, f"its image {image_name or image!s}", pixels.shape[:2])
    return pixels, labels


def read_labels(mask: StrPath | bytes, rule: str = "labels", object_label: int = 0, mask_name: str = "") -> np.ndarray:
    """The labels that :func:`read_pair` returns."""
    if rule == "labels":
        return read_label_map(mask, mask_name)
    return np.multiply(object_mask(mask, rule == "half", mask_name), object_label, dtype=np.int32)
