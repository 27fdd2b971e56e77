"""Episodes from a user's own pictures, in either layout and as they are; see docs/finetune.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldis_jax.datasets.folder_check import check_folder
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.support.checks import check_choice
from ldis_jax.support.files import StrPath


class PictureFolder(IndexedSource):
    """``images`` with ``masks``, or VOC's layout, checked file by file before anything is drawn.

    "train" are the pictures that are not held out. Of "val" queries are those that are, and their prompts are training
    pictures, as in use: so one held-out picture is enough to measure with.
    """

    few_images = True

    def __init__(self, root: StrPath, split: str, classes: Sequence[int] | None = None, skip_bad: bool = False):
        """Opens every file, unless this process has done so already; ``classes`` as of :class:`IndexedSource`.

        ``skip_bad`` leaves out files that cannot be used, instead of stopping.

        Raises:
            LDISError: files that cannot be used, or too few pictures.
        """
        check_choice("split", split, ("train", "val"))
        checked = check_folder(root)
        checked.require_usable(skip_bad)
        self._pairs, self._rule, self._object_labels = checked.pairs, checked.rule, checked.object_labels
        index, queries = {
            "train": (checked.index.subset(~checked.held_out), None),
            "val": (checked.index, checked.held_out),
        }[split]
        super().__init__(index, checked.class_names, classes, f"{root}, {split}", queries)

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        pair = self._pairs[name]
        return read_pair(pair.image, pair.mask, self._rule, self._object_labels.get(name, 0))
