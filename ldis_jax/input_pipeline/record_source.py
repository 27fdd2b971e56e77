"""Episodes from the records of ``data/build.py``; see data/README.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldis_jax.datasets.index import ImageIndex
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.datasets.records import INDEX_FILE, RecordReader
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.support.files import StrPath


class RecordSource(IndexedSource):
    """A built split: draws come from its index, pictures from its records by random access.

    Where the data set has videos, prompts are other frames of the query's video and ``is_video`` is set.
    """

    def __init__(self, root: StrPath, split: str, classes: Sequence[int] | None = None):
        """Reads the index.

        Args:
            root: ``OUT/NAME`` of ``data/build.py NAME --out=OUT``.
            split: name of a built split.
            classes: labels to draw episodes of, for a fold; None is all but 0 and 255.

        Raises:
            LDISError: not built; a split without any of the classes.
        """
        self._reader = RecordReader(root, split)
        index = ImageIndex.load(self._reader.folder / INDEX_FILE)
        if len(index) != self._reader.summary.get("images"):
            raise LDISError(f"{self._reader.folder}: index and summary do not fit each other; build the records again")
        super().__init__(index, self._reader.class_names, classes, str(self._reader.folder))
        self._order = np.argsort(index.names)

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        record = self._reader[self._row(name)]
        return read_pair(
            record["image"],
            record["mask"],
            self._reader.mask_rule,
            int(record["object_label"]),
            image_name=f"{self._reader.folder}: image {name}",
            mask_name=self._mask_name(name),
        )

    def _mask_name(self, name: str) -> str:
        return f"{self._reader.folder}: mask {name}"

    def _row(self, name: str) -> int:
        names = self.index.names
        place = np.searchsorted(names, name.encode(), sorter=self._order)
        if place == len(names) or names[self._order[place]] != name.encode():
            raise LDISError(f"{self._reader.folder}: holds no image {name!r}; freeze the episodes anew from this data")
        return int(self._order[place])
