"""DAVIS 2016, and 2017 beside it; see README.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from ldis_jax.datasets.builder import RecordBuilder
from ldis_jax.datasets.lists import find_image, frame_number, image_stems, read_list
from ldis_jax.datasets.scan import Item
from ldis_jax.support.files import StrPath


class Builder(RecordBuilder):
    """``JPEGImages/480p/SEQ``, ``Annotations/480p/SEQ``; one object a sequence, so every object is class 1.

    Splits ``train2017`` and ``val2017`` are those of ``ImageSets/2017``, whose masks have a label for each object.
    """

    name = "davis16"
    MASK_RULE = "nonzero"
    LISTS = ("ImageSets/480p/{}.txt", "ImageSets/2016/{}.txt")

    def __init__(self, source: StrPath, split: str, out: StrPath, **options: Any):
        """As :class:`RecordBuilder`; the split says how masks are read."""
        self._year_2017 = split.endswith("2017")
        if self._year_2017:
            self.MASK_RULE = "labels"
        super().__init__(source, split, out, **options)

    def listed(self) -> list[str]:
        """The lines of the split's list."""
        if self._year_2017:
            return read_list(self.source, self.split.removesuffix("2017"), ("ImageSets/2017/{}.txt",))
        return super().listed()

    def class_names(self) -> Sequence[str]:
        """The object has no name."""
        return ("background", "object")

    def not_exhaustive(self) -> str:
        """See :class:`RecordBuilder`."""
        return "masks show chosen objects of a video"

    def items(self) -> Iterator[Item]:
        """A line is "/JPEGImages/480p/SEQ/00000.jpg /Annotations/...", or a sequence, of which all frames are meant."""
        images, masks = (self.source / name / "480p" for name in ("JPEGImages", "Annotations"))
        for line in self.listed():
            path = PurePosixPath(line.split()[0])
            whole = "/" not in line
            sequence = line if whole else path.parent.name
            for i, stem in enumerate(image_stems(images / sequence) if whole else [path.stem]):
                image, mask = find_image(images / sequence, stem), masks / sequence / f"{stem}.png"
                yield Item(f"{sequence}/{stem}", str(image), str(mask), sequence, frame_number(stem, i), object_label=1)
