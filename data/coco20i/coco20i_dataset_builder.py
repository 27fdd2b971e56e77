"""COCO 2014 as COCO-20i uses it; see README.md."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coco20i.render import Instances
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.datasets.builder import RecordBuilder
from ldis_jax.datasets.scan import Item
from ldis_jax.errors import LDISError
from ldis_jax.support.files import reading
from ldis_jax.support.json_files import read_json

_MOST_BYTES = 1 << 32


class _Category(TypedDict):
    id: int
    name: str


class _Annotation(TypedDict):
    image_id: int
    category_id: int
    segmentation: Any
    area: float
    iscrowd: int


class _Image(TypedDict):
    id: int
    file_name: str
    height: int
    width: int


class _Instances(TypedDict):
    categories: list[_Category]
    annotations: list[_Annotation]
    images: list[_Image]


class Builder(RecordBuilder):
    """``train2014``, ``val2014``, and ``annotations/instances_{train,val}2014.json``, of which label maps are drawn.

    A label is the position, from 1 to 80, of the category in the order of COCO's ids. Images without any annotation are
    left out.
    """

    name = "coco20i"

    @classmethod
    def has_split(cls, source: Path, split: str) -> bool:
        """There are no lists: the annotation file names the images."""
        return _annotations(source, split).is_file()

    def source_files(self) -> Sequence[Path]:
        """The annotation file."""
        return (_annotations(self.source, self.split),)

    def class_names(self) -> Sequence[str]:
        """Of the annotation file."""
        return ("background", *(name for _, name in self._coco[0]))

    def items(self) -> Iterator[Item]:
        """In the order of the annotation file."""
        return iter(self._coco[1])

    @functools.cached_property
    def _coco(self) -> tuple[list[tuple[int, str]], list[Item]]:
        """(id, name) of the categories in the order of their ids, and the annotated images."""
        if importlib.util.find_spec("pycocotools") is None:
            raise LDISError('coco20i draws masks with pycocotools; install it: pip install -e ".[data]"')
        path = _annotations(self.source, self.split)
        with reading(f"{path}, COCO's instances (see data/coco20i/README.md for the layout)"):
            coco = read_json(path, _Instances, most=_MOST_BYTES)
            categories = sorted((category["id"], category["name"]) for category in coco["categories"])
            label_of = {number: label for label, (number, _) in enumerate(categories, 1)}
            instances: dict[int, list[tuple[int, dict[str, Any]]]] = {}
            for annotation in coco["annotations"]:
                kept = {key: annotation[key] for key in ("segmentation", "area", "iscrowd")}
                instances.setdefault(annotation["image_id"], []).append((label_of[annotation["category_id"]], kept))
        items = []
        for image in coco["images"]:
            if found := instances.get(image["id"]):
                name = Path(image["file_name"])
                mask = Instances(f"{path}: image {name}", image["height"], image["width"], tuple(found))
                items.append(Item(name.stem, str(self.source / f"{self.split}2014" / name.name), mask))
        return categories, items


def _annotations(source: Path, split: str) -> Path:
    return source / "annotations" / f"instances_{split}2014.json"
