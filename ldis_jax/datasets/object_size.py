"""How wide the objects of a folder are, and how much of an image a network should see at a time to make them out."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from ldis_jax.datasets.folder_check import CheckedFolder
from ldis_jax.datasets.pairs import read_labels
from ldis_jax.media.masks import IGNORE_LABEL

_MOST = 64  # masks that are measured
# Pixels of the network's square that an object should be wide. An autoencoder makes one latent of 8 x 8 of them.
_WANTED = 24.0
_WHOLE = 0.7  # shares of an image from which on the whole is shown


def object_widths(checked: CheckedFolder) -> dict[int, float]:
    """Label -> the median width of its objects, as a share of the image's long side.

    The width is four times the mean distance of an object's pixels from its border: what it is for a long strip, and
    two thirds of the diameter for a disc. At most 64 images are read, evenly spaced.
    """
    names = list(checked.pairs)
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), _MOST)).astype(int))]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: _widths_of(checked, name), chosen)
        widths: dict[int, list[float]] = {}
        for of_image in found:
            for label, width in of_image.items():
                widths.setdefault(label, []).append(width)
    return {label: float(np.median(values)) for label, values in sorted(widths.items())}


def _widths_of(checked: CheckedFolder, name: str) -> dict[int, float]:
    labels = read_labels(checked.pairs[name].mask, checked.rule, checked.object_labels.get(name, 0))
    found = {}
    for label in np.unique(labels).tolist():
        if label not in (0, IGNORE_LABEL):
            inside = np.pad((labels == label).astype(np.uint8), 1)  # the image's border ends an object
            distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
            found[label] = 4.0 * float(distance[inside == 1].mean()) / max(labels.shape)
    return found


def suggested_tile(checked: CheckedFolder, image_size: int, labels: Collection[int] = ()) -> float:
    """The ``tile`` of a task at ``image_size`` for the objects of a folder, or for those of some ``labels``.

    The geometric mean of the classes' widths then is 24 pixels of the network, or as many as the images have. It is 1
    where the whole image serves.
    """
    widths = object_widths(checked)
    chosen = [width for label, width in widths.items() if not labels or label in labels]
    if not chosen:
        return 1.0
    tile = float(np.exp(np.mean(np.log(chosen)))) * image_size / _WANTED
    long_side = float(np.median(np.maximum(checked.index.widths, checked.index.heights)))
    tile = max(tile, image_size / long_side, 0.02)  # enlarging images shows nothing more
    return 1.0 if tile >= _WHOLE else round(tile, 2)
