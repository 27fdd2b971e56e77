"""Episodes from the records of ``data/build.py``; see data/README.md."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldis_jax.datasets.index import INDEX_FILE, SUMMARY_FILE, ImageIndex, Summary, records_folder
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.support.files import StrPath, reading
from ldis_jax.support.json_files import read_json


class RecordSource(IndexedSource):
    """A built split: draws come from its index, pictures from its records by random access.

    Where the data set has videos, prompts are other frames of the query's video and ``is_video`` is set.
    """

    def __init__(self, root: StrPath, split: str, classes: Sequence[int] | None = None):
        """Reads the index of ``root``, the ``OUT/NAME`` of ``data/build.py``; ``classes`` as of :class:`IndexedSource`.

        Raises:
            LDISError: not built, or not whole; a split without any of the classes.
        """
        self._folder, self._split = records_folder(root, split), split
        self._records: Any = None
        with reading(f"{self._folder} (build the records with data/build.py)"):
            index = ImageIndex.load(self._folder / INDEX_FILE)
            summary = read_json(self._folder / SUMMARY_FILE, Summary, form="of records (build them with data/build.py)")
        if len(index) != summary["images"]:
            raise LDISError(f"{self._folder}: index and summary do not fit each other; build the records again")
        self._rule = summary["mask_rule"]
        super().__init__(index, summary["class_names"], classes, str(self._folder))
        self._order = np.argsort(index.names)

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        record, folder = self._record(self._row(name)), self._folder
        files, names = (record["image"], record["mask"]), (f"{folder}: image {name}", f"{folder}: mask {name}")
        return read_pair(*files, self._rule, int(record["object_label"]), *names)

    def _record(self, row: int) -> dict[str, Any]:
        """Files are opened on first use, and again after unpickling."""
        with reading(f"{self._folder}: record {row} (build the records again)"):
            if self._records is None:
                import tensorflow_datasets as tfds  # a second that a program without records need not wait

                self._records = tfds.builder_from_directory(os.fspath(self._folder)).as_data_source(self._split)
            return self._records[row]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None}

    def _row(self, name: str) -> int:
        names = self.index.names
        place = np.searchsorted(names, name.encode(), sorter=self._order)
        if place == len(names) or names[self._order[place]] != name.encode():
            raise LDISError(f"{self._folder}: holds no image {name!r}; freeze the episodes anew from this data")
        return int(self._order[place])
