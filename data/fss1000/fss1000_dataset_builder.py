"""FSS-1000; see README.md."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from ldis_jax.datasets.builder import RecordBuilder
from ldis_jax.datasets.lists import find_image, image_stems
from ldis_jax.datasets.scan import Item
from ldis_jax.media.masks import IGNORE_LABEL


class Builder(RecordBuilder):
    """``CLASS/1.jpg`` to ``10.jpg`` with ``CLASS/1.png`` to ``10.png``; split lists name classes.

    A class's label is its position from 1 among all class folders of the source, in alphabetical order, so that it is
    the same in every split; 255 is passed over, because it means "ignore" everywhere.
    """

    name = "fss1000"
    MASK_RULE = "half"
    SPLITS = ("train", "val", "test")
    LISTS = ("{}.txt", "splits/{}.txt")

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        folders = sorted(path.name for path in self.source.iterdir() if (path / "1.png").is_file())
        return {name: label + (label >= IGNORE_LABEL) for label, name in enumerate(folders, 1)}

    def class_names(self) -> Sequence[str]:
        """Names of folders."""
        names = ["background"] + ["(unused)"] * max(self._labels.values(), default=0)
        for name, label in self._labels.items():
            names[label] = name
        return names

    def not_exhaustive(self) -> str:
        """See :class:`RecordBuilder`."""
        return "a mask shows one class of its image"

    def items(self) -> Iterator[Item]:
        """Images of a class in the order of their numbers."""
        for name in self.listed():
            folder = self.source / name
            for stem in image_stems(folder):
                image, mask = find_image(folder, stem), folder / f"{stem}.png"
                yield Item(f"{name}/{stem}", str(image), str(mask), object_label=self._labels.get(name, 0))
