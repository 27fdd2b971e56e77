"""VSPW, and anything in its layout; see README.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ldis_jax.datasets.builder import RecordBuilder
from ldis_jax.datasets.lists import find_image, frame_number, image_stems, read_class_names
from ldis_jax.datasets.scan import Item
from ldis_jax.support.files import reading
from ldis_jax.support.json_files import read_json


class Builder(RecordBuilder):
    """``data/VIDEO/origin`` and ``data/VIDEO/mask``, or ``images/VIDEO`` and ``masks/VIDEO``; lists name videos."""

    name = "vspw"
    LISTS = ("{}.txt",)

    def class_names(self) -> Sequence[str]:
        """Of VSPW's ``label_num_dic_final.json`` ({name: label}), else of ``classes.json``."""
        path = self.source / "label_num_dic_final.json"
        if not path.exists():
            return read_class_names(self.source / "classes.json")
        with reading(f'{path}, {{"wall": 1, ...}}, a label for each name'):
            labels = {int(label): name for name, label in read_json(path, dict[str, int | str]).items()}
        inside = [label for label in labels if 0 < label < 255]
        return ["background", *(labels.get(i, f"class {i}") for i in range(1, max(inside, default=0) + 1))]

    def items(self) -> Iterator[Item]:
        """Frames in the order of their names."""
        data = self.source / "data"
        for video in self.listed():
            if data.is_dir():
                images, masks = data / video / "origin", data / video / "mask"
            else:
                images, masks = self.source / "images" / video, self.source / "masks" / video
            for i, stem in enumerate(image_stems(images)):
                image = find_image(images, stem)
                yield Item(f"{video}/{stem}", str(image), str(masks / f"{stem}.png"), video, frame_number(stem, i))
