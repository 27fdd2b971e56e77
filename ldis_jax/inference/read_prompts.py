"""Prompts from whatever a user has, as arrays of the network's own size."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ldis_jax.datasets.lists import find_class_names, read_class_names
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.transforms import crop_prompt, eval_image, eval_mask
from ldis_jax.media.images import ImageSource, read_image, size_error
from ldis_jax.media.masks import IGNORE_LABEL, list_labels, read_mask

Label = int | str  # of a label map: its value, or its name in the classes.json beside it
Prompt = tuple[ImageSource, ImageSource] | tuple[ImageSource, ImageSource, Label | None]
Classes = Mapping[str, Sequence[Prompt]]


def read_prompts(
    classes: Classes, size: int, ignore_label: int | None = None, tile: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits them into the network's square, with K the most that a class has.

    Args:
        classes: name -> (image, mask) pairs, or (image, mask, label); masks as of
            :func:`~ldis_jax.media.masks.read_mask`.
        size: S.
        ignore_label: mask value that is neither object nor background.
        tile: of the task.

    Returns:
        (images float32 [C, K, S, S, 3] in [-1, 1], masks uint8 [C, K, S, S] in {0, 1, 255}, how many of the K are a
        class's own, int32 [C]).

    Raises:
        LDISError: an unreadable image, or a mask that does not fit its image or shows no object.
    """
    counts = np.array([len(prompts) for prompts in classes.values()], np.int32)
    most = max(counts, default=0)
    images = np.zeros((len(classes), most, size, size, 3), np.float32)
    masks = np.zeros((len(classes), most, size, size), np.uint8)
    for (c, k), where, image, mask in _read(classes, ignore_label):
        shown = crop_prompt(image, mask, tile)
        images[c, k], masks[c, k] = eval_image(shown[0], size), eval_mask(shown[1], size)
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


def labelled(prompts: Sequence[Prompt], label: Label | None) -> Sequence[Prompt]:
    """The prompts, with a label for those that have none of their own."""
    if label is None:
        return prompts
    own = [(prompt, _label_of(prompt)) for prompt in _checked(prompts)]
    return [(*prompt[:2], label if its is None else its) for prompt, its in own]


def find_label(mask: ImageSource, label: Label | None, where: str) -> tuple[int | None, list[str]]:
    """A label's value, and the names of the mask's labels, by value; empty where no ``classes.json`` has them.

    Raises:
        LDISError: no class of that name.
    """
    path = find_class_names(mask) if isinstance(mask, (str, os.PathLike)) else None
    by_name = isinstance(label, str) and not re.fullmatch(r"[0-9]{1,9}", label)
    try:
        names = [] if path is None else read_class_names(path)
    except LDISError:  # perhaps of another program
        if by_name:
            raise
        names = []
    if label is None or not isinstance(label, str):
        return label, names
    if not by_name:
        return int(label), names
    if label not in names:
        held = (
            f"{path} has {list_labels(range(1, len(names)), names)}" if names else "there is no classes.json beside it"
        )
        raise LDISError(f"{where}: no label named {label!r:.80}; {held}; a label may also be a number")
    return names.index(label), names


def _checked(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    if not prompts or not all(isinstance(prompt, (tuple, list)) and len(prompt) in (2, 3) for prompt in prompts):
        raise LDISError(
            "prompts: give at least one (image, mask) pair for every class, or (image, mask, label), and nothing else"
        )
    return prompts


def _label_of(prompt: Prompt) -> Label | None:
    return prompt[2] if len(prompt) == 3 else None


def _read(classes: Classes, ignore_label: int | None) -> Iterator[tuple[tuple[int, int], str, np.ndarray, np.ndarray]]:
    """Indices of class and prompt, what errors call it, image and mask."""
    for prompts in classes.values() or [()]:
        _checked(prompts)
    for c, (name, prompts) in enumerate(classes.items()):
        for k, prompt in enumerate(prompts):
            image_source, mask_source = prompt[:2]
            where = f"prompt {k + 1}" if len(classes) == 1 else f"prompt {k + 1} of {name!r}"
            where += f" ({mask_source})" if isinstance(mask_source, (str, os.PathLike)) else ""
            image = read_image(image_source)
            label, names = find_label(mask_source, _label_of(prompt), where)
            mask = read_mask(mask_source, ignore_label, where, label=label, names=names)
            if image.shape[:2] != mask.shape:
                raise size_error(where, mask.shape, "its image", image.shape[:2])
            if not (mask == 1).any():
                raise LDISError(f"{where}: mask shows no object; give its pixels one value, and 0 to what is around it")
            yield (c, k), where, image, mask


def prompts_of_frame(image: np.ndarray, labels: np.ndarray) -> dict[int, list[Prompt]]:
    """One prompt for each object of a video's first frame, by label.

    Args:
        image: uint8 [H, W, 3].
        labels: uint8 [H, W]; 0 is background, 255 ignored.

    Raises:
        LDISError: labels of another size, or without an object.
    """
    values = [int(v) for v in np.unique(labels) if v not in (0, IGNORE_LABEL)]
    if labels.shape != image.shape[:2] or not values:
        raise LDISError(
            f"first_frame_labels of size {labels.shape} with {len(values)} objects: must be of the first frame's "
            f"size, {image.shape[:2]}, and label an object's pixels with 1 to 254"
        )
    ignored = labels == IGNORE_LABEL
    return {value: [(image, np.where(ignored, IGNORE_LABEL, labels == value).astype(np.uint8))] for value in values}
