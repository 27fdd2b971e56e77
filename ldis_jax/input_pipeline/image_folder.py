"""Episodes from a user's own images, in either layout and as they are; see docs/finetune.md."""

from __future__ import annotations

import numpy as np

from ldis_jax.datasets.folder_check import CheckedFolder, check_folder, hold_out
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.errors import LDISError, list_names
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.support.checks import check_choice
from ldis_jax.support.files import StrPath

SPLITS = ("train", "val", "fit", "choose")
_FEWEST = 10  # training images from which on some of them are only for choosing


def chosen_labels(checked: CheckedFolder, classes: str) -> list[int]:
    """Labels of classes by name or value, with commas between; none for an empty text.

    Raises:
        LDISError: no such class in the folder.
    """
    known = {name: found["label"] for name, found in checked.classes().items()}
    labels = []
    for part in filter(None, map(str.strip, classes.split(","))):
        label = known.get(part, int(part) if part.isdecimal() else -1)
        if label not in known.values():
            raise LDISError(f"{checked.layout.root}: no class {part!r}; choose of {list_names(known)}")
        labels.append(label)
    return labels


class ImageFolder(IndexedSource):
    """``images`` with ``masks``, or VOC's layout, checked file by file before anything is drawn.

    "train" are the images that are not held out. Of "val" queries are those that are, and their prompts are training
    images, as in use: so one held-out image is enough to measure with. "fit" and "choose" are two parts of "train": one
    in five is for choosing when to stop, asked by prompts of the others. Where there are fewer than ten, both are all.
    """

    few_images = True

    def __init__(self, root: StrPath, split: str, classes: str = "", skip_bad: bool = False, *, others: bool = False):
        """Opens every file, unless this process has done so already.

        Args:
            root: the folder.
            split: "train", "val", "fit" or "choose".
            classes: names or label values, with commas between; empty for all.
            skip_bad: leave out files that cannot be used, instead of stopping.
            others: take all classes but those.

        Raises:
            LDISError: files that cannot be used, too few images, or an unknown class.
        """
        check_choice("split", split, SPLITS)
        checked = check_folder(root)
        checked.require_usable(skip_bad)
        self._pairs, self._rule, self._object_labels = checked.pairs, checked.rule, checked.object_labels
        self.not_exhaustive = checked.not_exhaustive
        index, queries = checked.index, None
        if split == "val":
            queries = checked.held_out
        else:
            index = index.subset(~checked.held_out)
            choosing = hold_out(index) if len(index) >= _FEWEST else np.zeros(len(index), bool)
            if split == "fit":
                index = index.subset(~choosing)
            elif split == "choose" and choosing.any():
                queries = choosing
        labels = chosen_labels(checked, classes)
        if others:
            labels = [label["label"] for label in checked.classes().values() if label["label"] not in labels]
            if not classes or not labels:
                raise LDISError(f"{root}: no other classes than {classes or 'those that are trained on'}")
        super().__init__(index, checked.class_names, labels or None, f"{root}, {split}", queries)

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        pair = self._pairs[name]
        return read_pair(pair.image, pair.mask, self._rule, self._object_labels.get(name, 0))
