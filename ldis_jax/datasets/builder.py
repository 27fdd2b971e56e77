"""From the files of a data set to ArrayRecord files with an index: one TFDS builder for all of them.

A data set says where its files lie (:meth:`RecordBuilder.items`) and what its labels are called; the rest is here. A
built split is a folder ``OUT/NAME/SPLIT/VERSION`` that appears whole or not at all. It holds

* ``NAME-SPLIT.array_record-*``: the bytes of image and mask as they are in the source, with name, video and frame;
* ``index.npz``: :class:`~ldis_jax.datasets.index.ImageIndex`, row i of it being record i;
* ``index.json``: class names, mask rule, counts, source, bad files, versions, and a hash of all records;
* ``dataset_info.json``, ``features.json``: with these ``tfds.builder_from_directory`` reads it, too.

TensorFlow is not needed and never imported.
"""

from __future__ import annotations

import abc
import hashlib
import importlib.metadata
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from ldis_jax.datasets.index import (
    INDEX_FILE,
    RECORDS_VERSION,
    SUMMARY_FILE,
    ImageIndex,
    IndexWriter,
    Summary,
    records_folder,
)
from ldis_jax.datasets.lists import find_list, read_list
from ldis_jax.datasets.scan import Item, scan_all
from ldis_jax.datasets.shards import ShardWriter
from ldis_jax.errors import LDISError, TryAgainError
from ldis_jax.media.masks import IGNORE_LABEL
from ldis_jax.support.files import StrPath, is_full, only_one, resolved, write_json
from ldis_jax.support.json_files import read_json

_SHOWN = 10  # bad files and rare classes that messages spell out


class RecordBuilder(tfds.core.GeneratorBasedBuilder):
    """Builds one split of one data set; a subclass is a data set."""

    VERSION = tfds.core.Version(RECORDS_VERSION)

    # What a data set says about itself, besides ``items`` and ``class_names``.
    MASK_RULE = "labels"  # of datasets.pairs.MaskRule
    SPLITS: tuple[str, ...] = ("train", "val")  # built if none is asked for, as far as they are there
    LISTS: tuple[str, ...] = ("{}.txt",)  # where split lists may lie, besides metas/

    def __init_subclass__(cls, **kwargs: Any):
        """Keeps data sets out of TFDS's global registry: two builds in a process are no clash."""
        super().__init_subclass__(skip_registration=True, **kwargs)

    def __init__(self, source: StrPath, split: str, out: StrPath, *, num_workers: int = 0, skip_bad: bool = False):
        """Binds a split to folders; :meth:`build` does the work, in ``num_workers`` processes, for 0 in this one.

        ``skip_bad`` leaves bad files out instead of stopping.

        Raises:
            LDISError: an impossible name.
        """
        self.source, self.split = Path(os.path.realpath(source)), split
        self._num_workers, self._skip_bad = num_workers, skip_bad
        if not re.fullmatch(r"\w+", split) or split == "all":
            raise LDISError(f"--split={split!r}: a split's name has letters, digits and _ only, and TFDS keeps 'all'")
        self.warnings: list[str] = []
        self._bad: list[str] = []
        config = tfds.core.BuilderConfig(name=split, version=self.VERSION)
        super().__init__(data_dir=os.fspath(resolved(out)), config=config, file_format="array_record")

    # What a data set implements.

    @abc.abstractmethod
    def items(self) -> Iterator[Item]:
        """The images of the split, in the order of its list; they need not exist."""

    def class_names(self) -> Sequence[str]:
        """By label value, "background" first; may be empty."""
        return ()

    def not_exhaustive(self) -> str:
        """Why an image may show classes that its mask does not have; empty where it cannot."""
        return ""

    def source_files(self) -> Sequence[Path]:
        """Files besides images and masks that the records are made from."""
        return ()

    @classmethod
    def has_split(cls, source: Path, split: str) -> bool:
        """True if ``source`` has what it takes to build ``split``."""
        return find_list(source, split, cls.LISTS) is not None

    def listed(self) -> list[str]:
        """The lines of the split's list."""
        return read_list(self.source, self.split, self.LISTS)

    # What all of them share.

    @classmethod
    def of_splits(cls, source: StrPath, out: StrPath, splits: Sequence[str] = (), **options: Any) -> list[Self]:
        """A builder for each of ``splits``; without any, for those of ``SPLITS`` that the source has."""
        there = [split for split in cls.SPLITS if cls.has_split(Path(source), split)]
        return [cls(source, split, out, **options) for split in splits or there or cls.SPLITS[:1]]

    def build(self) -> Path:
        """Writes the records, unless they are there already, and returns their folder.

        Raises:
            LDISError: bad files without ``skip_bad``; nothing to write; a finished build of another source.
        """
        folder = records_folder(self.data_dir_root / self.name, self.split)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            busy = LDISError(f"{folder.parent}: another build is writing here; wait for it")
            with only_one(folder.parent, busy):
                for leftover in folder.parent.glob("incomplete.*"):  # TFDS's name for a folder in the making
                    shutil.rmtree(leftover)
                self._fingerprint, self._total = self._take_fingerprint()
                if folder.exists():
                    self._check_finished(folder)
                else:
                    with tempfile.TemporaryDirectory() as downloads:  # TFDS makes such a folder, whether used or not
                        self.download_and_prepare(download_dir=downloads)
        except OSError as error:
            kind = TryAgainError if is_full(error) else LDISError
            raise kind(f"{error.filename or folder}: {error.strerror or error}") from error
        return folder

    def summary(self) -> dict[str, Any]:
        """The content of the finished build's ``index.json``."""
        return read_json(self.data_path / SUMMARY_FILE)

    def _info(self) -> tfds.core.DatasetInfo:
        # Not tfds.features.Image: its decoders turn palettes into colours, and encode JPEG again.
        file_bytes, number = tfds.features.Tensor(shape=(), dtype=np.bytes_), np.int32
        features = {"image": file_bytes, "mask": file_bytes, "name": tfds.features.Text()}
        features |= {"video": tfds.features.Text(), "frame": number, "object_label": number}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {self.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields good images and adds them to the index; ends early, but scans on, where a bad one spoils the build."""
        self._index, names = IndexWriter(), set()
        progress = tqdm(self.items(), f"{self.name}/{self.split}", self._total, unit=" images", disable=None)
        for item, found in scan_all(progress, self.MASK_RULE, self._num_workers):
            error = found.error or (f"{item.image}: listed twice in split {self.split}" if item.name in names else "")
            names.add(item.name)
            if error:
                self._bad.append(error)
            elif self._skip_bad or not self._bad:
                self._index.add(item.name, found.size, found.labels, found.pixels, item.video, item.frame)
                facts = {key: getattr(item, key) for key in ("name", "video", "frame", "object_label")}
                yield len(names), {"image": found.image, "mask": found.mask, **facts}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes records and index; what TFDS does with the folder around them stays TFDS's."""
        shards = ShardWriter(self.data_path, self.name, self.split, self.info.features)
        try:
            for _, example in self._split_generators(dl_manager)[self.split]:
                shards.write(example)
        finally:
            split_info = shards.close()
        index = self._index.finish()
        if (self._bad and not self._skip_bad) or not len(index):
            raise LDISError(
                f"{len(self._bad)} of {self._total} images of {self.name}/{self.split} are bad; a split needs a usable "
                f"image. Mend them or leave them out with --skip_bad. {_first(self._bad)}"
            )
        if self._bad:
            self.warnings.append(f"left out {len(self._bad)} bad images, see {SUMMARY_FILE}. {_first(self._bad)}")
        self.info.set_splits(tfds.core.SplitDict([split_info]))
        index.save(self.data_path / INDEX_FILE)
        write_json(self.data_path / SUMMARY_FILE, self._summary(index, shards.hash))

    def _summary(self, index: ImageIndex, digest: str) -> dict[str, Any]:
        names = list(self.class_names())
        labels, inverse, images = np.unique(index.labels, return_inverse=True, return_counts=True)
        pixels = np.bincount(inverse, index.pixels, len(labels)).astype(np.int64)
        classes = {}
        for label, n, area in zip(labels.tolist(), images.tolist(), pixels.tolist(), strict=True):
            name = names[label] if label < len(names) else f"class {label}"
            classes[str(label)] = {"name": "ignore" if label == IGNORE_LABEL else name, "images": n, "pixels": area}
        rare = [c["name"] for label, c in classes.items() if label not in ("0", str(IGNORE_LABEL)) and c["images"] == 1]
        if rare:
            self.warnings.append(
                f"{len(rare)} classes show in one image only and cannot be drawn: {_first(rare, ', ')}"
            )
        packages = ("ldis_jax", "tensorflow-datasets", "array_record", "pillow")
        return {
            "data_set": self.name,
            "split": self.split,
            "source": os.fspath(self.source),
            "mask_rule": self.MASK_RULE,
            "not_exhaustive": self.not_exhaustive(),
            "class_names": names,
            "images": len(index),
            "videos": len(index.video_names),
            "classes": classes,
            "bad": self._bad,
            "versions": {"records": RECORDS_VERSION, **{name: importlib.metadata.version(name) for name in packages}},
            "fingerprint": self._fingerprint,
            "hash": digest,
        }

    def _take_fingerprint(self) -> tuple[str, int]:
        """A hash of names, sizes and times of all source files, and the number of items; no file is opened."""
        digest, total = hashlib.sha256(), 0
        digest.update(repr((RECORDS_VERSION, self.MASK_RULE, list(self.class_names()))).encode())
        for path in self.source_files():
            digest.update(_stat_line(os.fspath(path), self.source))
        for item in self.items():
            mask = item.mask if isinstance(item.mask, str) else ""
            digest.update(f"{item.name}\0{item.video}\0{item.frame}\0{item.object_label}\0".encode())
            digest.update(_stat_line(item.image, self.source) + (_stat_line(mask, self.source) if mask else b""))
            total += 1
        return digest.hexdigest()[:16], total

    def _check_finished(self, folder: Path) -> None:
        try:
            summary = read_json(folder / SUMMARY_FILE, Summary)
            same, bad = summary["fingerprint"] == self._fingerprint, summary["bad"]
        except LDISError:
            same, bad = False, []
        if not same or (bad and not self._skip_bad):
            lacks = f"with --skip_bad and lacks {len(bad)} images"
            why = lacks if same else f"from another source, or {self.source} has changed since"
            raise LDISError(f"{folder}: was built {why}; delete that folder to build it again, or give another --out")

    # TFDS announces a download and a dataset of unknown size.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


def _stat_line(path: str, source: Path) -> bytes:
    try:
        stat = os.stat(path)
        facts = (stat.st_size, stat.st_mtime_ns)
    except OSError:
        facts = (-1, -1)  # missing files are found by the scan
    return f"{os.path.relpath(path, source)}\0{facts}\n".encode(errors="surrogateescape")


def _first(messages: Sequence[str], separator: str = "; ") -> str:
    rest = len(messages) - _SHOWN
    return separator.join(messages[:_SHOWN]) + (f"{separator}and {rest} more" if rest > 0 else "")
