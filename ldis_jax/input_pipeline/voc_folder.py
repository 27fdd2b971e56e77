"""Episodes from a folder in PASCAL VOC's layout; see data/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldis_jax.datasets.index import IndexWriter
from ldis_jax.datasets.lists import find_image, read_class_names, read_lines, unlabelled
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.media.masks import IGNORE_LABEL, read_label_map
from ldis_jax.support.files import StrPath


class VOCFolder(IndexedSource):
    """``JPEGImages/*.jpg|png``, ``SegmentationClass/*.png``, ``ImageSets/Segmentation/<split>.txt``, ``classes.json``.

    The index is built from the masks themselves, so it cannot disagree with them. Reading all of them at every start
    takes minutes on tens of thousands; ``data/build.py folder`` does it once, see :class:`RecordSource`.
    """

    def __init__(self, root: StrPath, split: str, classes: Sequence[int] | None = None):
        """Reads every mask of the split once; ``classes`` as of :class:`IndexedSource`.

        Raises:
            LDISError: a missing or damaged file; a split without any of the classes.
        """
        self.root = Path(root)
        split_file = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        names = list(dict.fromkeys(read_lines(split_file)))
        class_names = read_class_names(self.root / "classes.json")

        writer = IndexWriter()
        with ThreadPoolExecutor() as pool:
            scans = tqdm(pool.map(self._scan, names), split_file.name, len(names), disable=len(names) <= 500)
            for name, counts in zip(names, scans, strict=True):
                present = np.flatnonzero(counts)
                writer.add(name, (0, 0), present, counts[present])  # images are not opened, so their sizes are unknown
        index = writer.finish()
        if (index.labels == IGNORE_LABEL).any():
            self.not_exhaustive = unlabelled(self.root / "classes.json")
        super().__init__(index, class_names, classes, str(split_file))

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return read_pair(self._image_path(name), self._mask_path(name))

    def _mask_path(self, name: str) -> Path:
        return self.root / "SegmentationClass" / f"{name}.png"

    def _image_path(self, name: str) -> Path:
        return find_image(self.root / "JPEGImages", name)

    def _scan(self, name: str) -> np.ndarray:
        """int64 [256]: pixels by label."""
        if not self._image_path(name).is_file():
            raise LDISError(f"{self._image_path(name)}: no such file, nor .png; add it or edit the split")
        return np.bincount(read_label_map(self._mask_path(name)).ravel(), minlength=256)
