"""PASCAL VOC 2012 with SBD's masks; see README.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ldis_jax.datasets.builder import RecordBuilder
from ldis_jax.datasets.lists import find_image
from ldis_jax.datasets.scan import Item

_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
)


class Builder(RecordBuilder):
    """``JPEGImages``, ``SegmentationClassAug`` or else ``SegmentationClass``, and split lists."""

    name = "pascal"
    SPLITS = ("train_aug", "train", "val")
    LISTS = ("ImageSets/Segmentation/{}.txt", "{}.txt")

    def class_names(self) -> Sequence[str]:
        """VOC's twenty."""
        return ("background", *_CLASSES.split())

    def items(self) -> Iterator[Item]:
        """Lists hold stems, or an image path and a mask path a line; either way the stem counts."""
        augmented, plain = self.source / "SegmentationClassAug", self.source / "SegmentationClass"
        for line in self.listed():
            stem = Path(line.split()[0]).stem
            mask = augmented / f"{stem}.png"
            if not mask.is_file() and plain.is_dir():
                mask = plain / f"{stem}.png"
            yield Item(stem, str(find_image(self.source / "JPEGImages", stem)), str(mask))
