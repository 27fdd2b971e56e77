"""COCO 2014 as COCO-20i uses it; see README.md."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coco20i.render import Instances

from ldis_jax.datasets.builder import RecordBuilder
from ldis_jax.datasets.scan import Item
from ldis_jax.errors import LDISError


class Builder(RecordBuilder):
    """``train2014``, ``val2014``, and ``annotations/instances_{train,val}2014.json``, of which label maps are painted.

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
        return ("background", *(category["name"] for category in self._categories()))

    def items(self) -> Iterator[Item]:
        """In the order of the annotation file."""
        path = _annotations(self.source, self.split)
        try:
            label_of = {category["id"]: label for label, category in enumerate(self._categories(), 1)}
            instances: dict[int, list[tuple[int, dict[str, Any]]]] = {}
            for annotation in self._coco["annotations"]:
                kept = {key: annotation[key] for key in ("segmentation", "area", "iscrowd")}
                instances.setdefault(annotation["image_id"], []).append((label_of[annotation["category_id"]], kept))
            for image in self._coco["images"]:
                if found := instances.get(image["id"]):
                    name = Path(image["file_name"])
                    mask = Instances(f"{path}: image {name}", image["height"], image["width"], tuple(found))
                    yield Item(name.stem, str(self.source / f"{self.split}2014" / name.name), mask)
        except (KeyError, TypeError, AttributeError) as error:
            raise LDISError(f"{path}: not COCO's instances ({error!r} is wrong or missing); fetch it again") from None

    def _categories(self) -> list[dict[str, Any]]:
        try:
            return sorted(self._coco["categories"], key=lambda category: category["id"])
        except (KeyError, TypeError) as error:
            raise LDISError(
                f"{_annotations(self.source, self.split)}: no categories ({error!r}); fetch it again"
            ) from None

    @functools.cached_property
    def _coco(self) -> Any:
        if importlib.util.find_spec("pycocotools") is None:
            raise LDISError('coco20i paints masks with pycocotools; install it: pip install "ldis_jax[data]"')
        path = _annotations(self.source, self.split)
        try:
            with open(path, encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError) as error:
            raise LDISError(f"{path}: cannot be read ({error}); see data/coco20i/README.md for the layout") from None


def _annotations(source: Path, split: str) -> Path:
    return source / "annotations" / f"instances_{split}2014.json"
