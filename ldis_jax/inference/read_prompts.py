"""Prompts from whatever a user has, as arrays of the network's own size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.transforms import eval_image, eval_mask
from ldis_jax.media.images import ImageSource, read_image, size_error
from ldis_jax.media.masks import IGNORE_LABEL, read_mask

Prompt = tuple[ImageSource, ImageSource]
Classes = Mapping[str, Sequence[Prompt]]


def read_prompts(
    classes: Classes, size: int, ignore_label: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits them into the network's square, with K the most that a class has.

    Args:
        classes: name -> (image, mask) pairs; masks as of :func:`~ldis_jax.media.masks.read_mask`.
        size: S.
        ignore_label: mask value that is neither object nor background.

    Returns:
        (images float32 [C, K, S, S, 3] in [-1, 1], masks uint8 [C, K, S, S] in {0, 1, 255}, how many of the K are a
        class's own, int32 [C]).

    Raises:
        LDISError: an unreadable picture, or a mask that does not fit its image or shows no object.
    """
    counts = np.array([len(prompts) for prompts in classes.values()], np.int32)
    most = max(counts, default=0)
    images = np.zeros((len(classes), most, size, size, 3), np.float32)
    masks = np.zeros((len(classes), most, size, size), np.uint8)
    for (c, k), where, image, mask in _read(classes, ignore_label):
        images[c, k], masks[c, k] = eval_image(image, size), eval_mask(mask, size)
        if not (masks[c, k] == 1).any():
            raise LDISError(f"{where}: object vanishes at {size} pixels; crop image and mask around it")
    return images, masks, counts


def open_prompts(classes: Classes, ignore_label: int | None = None) -> dict[str, list[Prompt]]:
    """The prompts with their files read, for before a model is loaded, which takes longer.

    Masks are bool, or uint8 in {0, 1, 255} where some of it is ignored.

    Raises:
        LDISError: what :func:`read_prompts` would raise for any size.
    """
    opened: dict[str, list[Prompt]] = {name: [] for name in classes}
    for (c, _), _, image, mask in _read(classes, ignore_label):
        certain = mask if (mask == IGNORE_LABEL).any() else mask.astype(np.bool_)  # not to be judged again
        opened[list(classes)[c]].append((image, certain))
    return opened


def _read(classes: Classes, ignore_label: int | None) -> Iterator[tuple[tuple[int, int], str, np.ndarray, np.ndarray]]:
    """Indices of class and prompt, what errors call it, image and mask."""
    every = [prompt for prompts in classes.values() for prompt in prompts]
    pairs = all(isinstance(prompt, (tuple, list)) and len(prompt) == 2 for prompt in every)
    if not pairs or not every or not all(classes.values()):
        raise LDISError("prompts: give at least one (image, mask) pair for every class, and nothing but pairs")
    for c, (name, prompts) in enumerate(classes.items()):
        for k, (image_source, mask_source) in enumerate(prompts):
            where = f"prompt {k + 1}" if len(classes) == 1 else f"prompt {k + 1} of {name!r}"
            where += f" ({mask_source})" if isinstance(mask_source, (str, Path)) else ""
            image, mask = read_image(image_source), read_mask(mask_source, ignore_label, where)
            if image.shape[:2] != mask.shape:
                raise size_error(where, mask.shape, "its image", image.shape[:2])
            if not (mask == 1).any():
                raise LDISError(f"{where}: mask shows no object; give its pixels one value, and 0 to what is around it")
            yield (c, k), where, image, mask
