"""A split's names, sizes, videos and the labels of every image, as flat arrays that any process can share."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired  # pydantic's, before Python 3.12

import numpy as np
from typing_extensions import TypedDict

from ldis_jax.datasets.pairs import MaskRule
from ldis_jax.support.files import StrPath, atomic_write, checked_file

RECORDS_VERSION = "1.0.0"  # of what builder.py writes
INDEX_FILE, SUMMARY_FILE = "index.npz", "index.json"


def records_folder(root: StrPath, split: str) -> Path:
    """``root/split/VERSION``, where ``root`` is the ``OUT/NAME`` of ``data/build.py``."""
    return Path(root) / str(split) / RECORDS_VERSION


class Summary(TypedDict):
    """The part of a split's ``index.json`` that is read."""

    mask_rule: MaskRule
    class_names: list[str]
    images: int
    fingerprint: str
    bad: list[str]
    hash: NotRequired[str]
    not_exhaustive: NotRequired[str]


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """N images with M labels in all; image i shows ``labels[offsets[i]:offsets[i + 1]]``, in ascending order.

    Attributes:
        names: bytes [N], UTF-8.
        videos: int32 [N], row of ``video_names``; all 0 where images are no frames.
        frames: int32 [N], number of the frame in its video; 0 where images are no frames.
        heights: int32 [N], upright.
        widths: int32 [N].
        offsets: int64 [N + 1].
        labels: int32 [M], 0 and 255 included.
        pixels: int64 [M], how many the label has; those of an image add up to its size.
        video_names: bytes [V], UTF-8; V = 0 where images are no frames.
    """

    names: np.ndarray
    videos: np.ndarray
    frames: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray
    video_names: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_videos(self) -> bool:
        """True if images are frames of videos."""
        return len(self.video_names) > 0

    def rows(self) -> np.ndarray:
        """int32 [M]: the image that each entry of ``labels`` belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))

    def subset(self, keep: np.ndarray) -> ImageIndex:
        """The images where ``keep``, bool [N], is true."""
        counts, entries = np.diff(self.offsets)[keep], keep[self.rows()]
        columns = {name: getattr(self, name)[keep] for name in ("names", "videos", "frames", "heights", "widths")} | {
            name: getattr(self, name)[entries] for name in ("labels", "pixels")
        }
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return ImageIndex(offsets=offsets, video_names=self.video_names, **columns)

    def save(self, path: StrPath) -> None:
        """Writes an .npz without pickles."""
        with atomic_write(path) as temporary:
            np.savez(temporary, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def load(cls, path: StrPath) -> ImageIndex:
        """Reads what :meth:`save` wrote; nothing in it is run. Raises ``ValueError`` where the arrays do not fit."""
        with np.load(checked_file(path), allow_pickle=False) as arrays:
            index = cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})
        if not index._fits():
            raise ValueError("its arrays do not fit each other")
        return index

    def _fits(self) -> bool:
        """Types, lengths and places; whatever they are of, drawing would end on it, or draw something else."""
        columns, text = vars(self), ("names", "video_names")
        images, entries = len(self.names), len(self.labels)
        lengths = {"offsets": images + 1, "labels": entries, "pixels": entries, "video_names": len(self.video_names)}
        return (
            all(array.shape == (lengths.get(name, images),) for name, array in columns.items())
            and all(array.dtype.kind == ("S" if name in text else "i") for name, array in columns.items())
            and self.offsets[0] == 0
            and self.offsets[-1] == entries
            and bool((np.diff(self.offsets) >= 0).all())
            and bool(((self.videos >= 0) & (self.videos < max(len(self.video_names), 1))).all())
        )


class IndexWriter:
    """Collects an :class:`ImageIndex` image by image, at some 100 bytes each."""

    def __init__(self) -> None:
        """Starts empty."""
        self._names: list[bytes] = []
        self._video_rows: dict[str, int] = {}
        self._columns = {name: array.array("i") for name in ("videos", "frames", "heights", "widths", "labels")}
        self._pixels, self._offsets = array.array("q"), array.array("q", [0])

    def add(
        self,
        name: str,
        size: tuple[int, int],
        labels: Iterable[int],
        pixels: Iterable[int],
        video: str = "",
        frame: int = 0,
    ) -> None:
        """Adds one image of ``size`` (height, width); an empty ``video`` means that it is no frame."""
        self._names.append(name.encode())
        row = self._video_rows.setdefault(video, len(self._video_rows))
        for column, value in zip(("videos", "frames", "heights", "widths"), (row, frame, *size), strict=True):
            self._columns[column].append(value)
        self._columns["labels"].extend(labels)
        self._pixels.extend(pixels)
        self._offsets.append(len(self._pixels))

    def finish(self) -> ImageIndex:
        """The index of all that was added."""
        videos = [] if list(self._video_rows) == [""] else [video.encode() for video in self._video_rows]
        return ImageIndex(
            names=np.array(self._names, np.bytes_),
            offsets=np.array(self._offsets, np.int64),
            pixels=np.array(self._pixels, np.int64),
            video_names=np.array(videos, np.bytes_),
            **{name: np.array(column, np.int32) for name, column in self._columns.items()},
        )
