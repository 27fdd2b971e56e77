"""Episodes from the records of ``data/build.py``; see data/README.md."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ldis_jax.datasets.index import INDEX_FILE, SUMMARY_FILE, ImageIndex, Summary, records_folder
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.errors import LDISError, list_names
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.support.files import StrPath, reading
from ldis_jax.support.json_files import read_json

_CORE = "tensorflow_datasets.core.features"
# All strings of the features.json that data/build.py writes.
_FEATURES = {f"{_CORE}.{name}" for name in ("features_dict.FeaturesDict", "tensor_feature.Tensor", "text_feature.Text")}
_FEATURES |= {"string", "int32", "none"}
# Threads that load images come to their first record at the same time. While TFDS is imported, `import` gives all
# threads modules that load later, under a lock beside Python's own: two that import it wait for each other for ever.
_OPENING = threading.Lock()


class RecordSource(IndexedSource):
    """A built split: draws come from its index, images from its records by random access.

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
        self.not_exhaustive = summary.get("not_exhaustive", "its records are of an older version; build them again")
        super().__init__(index, summary["class_names"], classes, str(self._folder))
        self._order = np.argsort(index.names)

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        image, mask, object_label = self._record(self._row(name))
        names = f"{self._folder}: image {name}", f"{self._folder}: mask {name}"
        return read_pair(image, mask, self._rule, object_label, *names)

    def _record(self, row: int) -> tuple[bytes, bytes, int]:
        """Image, mask and label of its object. Files are opened on first use, and again after unpickling."""
        with reading(f"{self._folder}: record {row} (build the records again)"):
            with _OPENING:
                if self._records is None:
                    self._records = self._open()
            record = self._records[row]
            return record["image"], record["mask"], int(record["object_label"])

    def _open(self) -> Any:
        self._check_features()
        import tensorflow_datasets as tfds  # a second that a program without records need not wait

        return tfds.builder_from_directory(os.fspath(self._folder)).as_data_source(self._split)

    def _check_features(self) -> None:
        """TFDS imports the classes that a file of the folder names: they must be those that we write."""
        path = self._folder / "features.json"
        if foreign := set(_strings(json.loads(path.read_text(encoding="utf-8")))) - _FEATURES:
            raise LDISError(f"{path}: {list_names(foreign)}: not of data/build.py; build the records again")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None}

    def _row(self, name: str) -> int:
        names = self.index.names
        place = np.searchsorted(names, name.encode(), sorter=self._order)
        if place == len(names) or names[self._order[place]] != name.encode():
            raise LDISError(f"{self._folder}: holds no image {name!r}; freeze the episodes again from this data")
        return int(self._order[place])


def _strings(value: Any) -> Iterator[str]:
    """Those of a JSON document, however deep."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(part)
