"""Your own images; see README.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ldis_jax.datasets.builder import RecordBuilder
from ldis_jax.datasets.lists import find_image, image_stems, read_class_names, unlabelled
from ldis_jax.datasets.scan import Item


class Builder(RecordBuilder):
    """PASCAL VOC's layout, or ``images`` and ``masks`` with the same stems; ``classes.json`` names the labels.

    Split "full" needs no list: it is every image of the folder.
    """

    name = "folder"
    SPLITS = ("train", "val", "full")
    LISTS = ("ImageSets/Segmentation/{}.txt", "{}.txt")

    @classmethod
    def has_split(cls, source: Path, split: str) -> bool:
        """With lists, what they say; without, "full"."""
        if split != "full" or super().has_split(source, split):
            return super().has_split(source, split)
        return not any(super(Builder, cls).has_split(source, name) for name in ("train", "val"))

    def class_names(self) -> Sequence[str]:
        """Of ``classes.json``."""
        return read_class_names(self.source / "classes.json")

    def not_exhaustive(self) -> str:
        """Of ``classes.json``, too."""
        return unlabelled(self.source / "classes.json")

    def items(self) -> Iterator[Item]:
        """A line of a list is a stem, whatever characters it has."""
        voc = (self.source / "JPEGImages").is_dir()
        images, masks = (
            self.source / name for name in (("JPEGImages", "SegmentationClass") if voc else ("images", "masks"))
        )
        every = self.split == "full" and not super().has_split(self.source, "full")
        for stem in image_stems(images) if every else self.listed():
            yield Item(stem, str(find_image(images, stem)), str(masks / f"{stem}.png"))
