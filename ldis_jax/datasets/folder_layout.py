"""Images and masks of a user's folder, found by looking: what lies where, what belongs together, what is missing."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ldis_jax.datasets.lists import read_lines
from ldis_jax.errors import LDISError
from ldis_jax.support.files import StrPath

_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx")
_SPLIT_FOLDERS = {"train", "val", "valid", "test"}
_LISTS = ("ImageSets/Segmentation/{}.txt", "{}.txt")


class Problem(NamedTuple):
    """A problem with a file, and how to solve it."""

    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


class Pair(NamedTuple):
    """An image and its mask, by path; ``name`` is that of both below their folders, without the ending."""

    name: str
    image: str
    mask: str


@dataclasses.dataclass(frozen=True)
class FolderLayout:
    """A folder, not yet opened files of it.

    Attributes:
        root: the folder.
        label_maps: masks are label maps by the layout's own rule, as in VOC's; else it is up to what they hold.
        pairs: by name, sorted.
        train: names to train on, where the folder says; None where it does not.
        val: names to hold out, likewise.
        class_depth: which of the sub-folders in a name would be its class.
        problems: files that are in no pair, though they should be.
        notes: files that are passed over.
    """

    root: Path
    label_maps: bool
    pairs: tuple[Pair, ...]
    train: tuple[str, ...] | None
    val: tuple[str, ...] | None
    class_depth: int
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


def find_layout(root: StrPath) -> FolderLayout:
    """Looks for ``JPEGImages`` with ``SegmentationClass`` (VOC), or ``images`` with ``masks``, in any case.

    Sub-folders are looked into, and may be the splits ``train`` and ``val``, as lists of these names may say, too.
    Hidden files and those that operating systems leave are passed over.

    Raises:
        LDISError: no such folder, or neither layout in it.
    """
    root = Path(root)
    inside = sorted(root.iterdir()) if root.is_dir() else []
    folders = {path.name.lower(): path for path in inside if path.is_dir()}
    for names in (("jpegimages", "segmentationclass"), ("images", "masks")):
        if all(name in folders for name in names):
            images, masks = (folders[name] for name in names)
            return _pair_up(root, names[0] == "jpegimages", images, masks)
    held = ", ".join(sorted(folders)[:5]) or "no folders"
    held = f"it has {held}" if root.is_dir() else "there is no such folder"
    raise LDISError(f"{root}: needs images/ and masks/, or VOC's JPEGImages/ and SegmentationClass/; {held}")


def _pair_up(root: Path, label_maps: bool, images: Path, masks: Path) -> FolderLayout:
    problems: list[Problem] = []
    notes: list[Problem] = []
    found = {folder: _images(folder, problems, notes) for folder in (images, masks)}
    names = sorted(set(found[images]) | set(found[masks]))
    train, val = (_listed(root, split) for split in ("train", "val"))
    tops = {name.partition("/")[0] for name in names}
    by_folder = train is None and val is None and "train" in tops and tops <= _SPLIT_FOLDERS
    if by_folder:
        train = tuple(name for name in names if name.startswith("train/"))
        val = tuple(name for name in names if name.startswith(("val/", "valid/"))) or None
    if val is not None and train is None:
        problems.append(Problem(str(root), "has a val.txt but no train.txt; add it, or take val.txt away"))
    if train is not None:
        names = sorted({*train, *(val or ())})
        for name in sorted(set(train) & set(val or ())):
            problems.append(Problem(found[images].get(name, name), "in train.txt and in val.txt; take one line out"))
    alike = {folder: {_key(name): path for name, path in files.items()} for folder, files in found.items()}
    pairs = []
    for name in names:
        image, mask = found[images].get(name), found[masks].get(name)
        if image and mask:
            pairs.append(Pair(name, image, mask))
        elif image:
            problems.append(Problem(image, f"no mask {masks.name}/{name}.*{_meant(name, alike[masks])}"))
        elif mask:
            problems.append(Problem(mask, f"no image {images.name}/{name}.*{_meant(name, alike[images])}"))
        else:
            problems.append(Problem(name, f"in a list, but in neither {images.name}/ nor {masks.name}/"))
    return FolderLayout(root, label_maps, tuple(pairs), train, val, int(by_folder), tuple(problems), tuple(notes))


def _listed(root: Path, split: str) -> tuple[str, ...] | None:
    paths = (root / place.format(split) for place in _LISTS)
    path = next((path for path in paths if path.is_file()), None)
    return None if path is None else tuple(dict.fromkeys(read_lines(path)))


def _images(folder: Path, problems: list[Problem], notes: list[Problem]) -> dict[str, str]:
    """Paths by name below ``folder``, without the ending."""
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: dict[str, str] = {}
    for path in _walk(folder):
        stem, ending = os.path.splitext(os.path.relpath(path, folder))
        name = Path(stem).as_posix()
        if ending.lower() not in endings:
            notes.append(Problem(path, f"not read: {ending or 'no ending'} is no image format that PIL opens"))
        elif name in found:
            problems.append(Problem(path, f"has the name of {os.path.basename(found[name])}; take one of them away"))
        else:
            found[name] = path
    return found


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for file in sorted(files):
            if not _is_hidden(file):
                yield os.path.join(parent, file)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _key(name: str) -> str:
    return re.sub(r"[ _.-]*(mask|label|seg|gt|annotation)s?$", "", name.lower())


def _meant(name: str, others: Mapping[str, str]) -> str:
    """A file that may have been meant: of the same name but for its case or an appended "_mask"."""
    path = others.get(_key(name))
    return f"; if {path} is meant, give both one name" if path else ""
