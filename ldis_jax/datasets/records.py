"""Where a built split lies and how its records are read, in any process or thread."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ldis_jax.datasets.pairs import MASK_RULES
from ldis_jax.errors import LDISError
from ldis_jax.support.files import StrPath

RECORDS_VERSION = "1.0.0"  # of what builder.py writes
INDEX_FILE, SUMMARY_FILE = "index.npz", "index.json"


def records_folder(root: StrPath, split: str) -> Path:
    """``root/split/VERSION``, where ``root`` is the ``OUT/NAME`` of ``data/build.py``."""
    return Path(root) / split / RECORDS_VERSION


class RecordReader:
    """Random access to the records of a built split; files are opened on first use, and anew after unpickling."""

    def __init__(self, root: StrPath, split: str):
        """Reads the summary.

        Args:
            root: ``OUT/NAME`` of ``data/build.py``.
            split: name of the split.

        Raises:
            LDISError: not built, or not whole.
        """
        self.folder, self.split = records_folder(root, split), split
        path = self.folder / SUMMARY_FILE
        try:
            self.summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self.mask_rule = MASK_RULES[MASK_RULES.index(self.summary["mask_rule"])]
            self.class_names = self.summary["class_names"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LDISError(f"{path}: no finished records ({error}); build them with data/build.py") from None
        self._records: Any = None

    def __getitem__(self, row: int) -> dict[str, Any]:
        """``image`` and ``mask``, bytes of the files; ``name`` and ``video``, bytes; ``frame`` and ``object_label``."""
        try:
            if self._records is None:
                import tensorflow_datasets as tfds  # a second that a program without records need not wait

                self._records = tfds.builder_from_directory(os.fspath(self.folder)).as_data_source(self.split)
            return self._records[row]
        except (RuntimeError, ValueError, OSError) as error:
            raise LDISError(f"{self.folder}: record {row} cannot be read ({error}); build the records again") from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None}
