"""Split lists, class names and frames, as data sets keep them on disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.datasets.meta_files import read_meta
from ldis_jax.errors import LDISError
from ldis_jax.media.images import IMAGE_SUFFIXES
from ldis_jax.support.files import StrPath, natural_key, reading
from ldis_jax.support.json_files import read_json

_MASK_FOLDERS = ("masks", "segmentationclass")
_COMMON = (".jpg", ".png", ".jpeg", ".JPG", ".JPEG", ".PNG")  # looked for first
_SUFFIXES = tuple(dict.fromkeys((*_COMMON, *IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))))


class _Classes(TypedDict):
    names: list[str]


def find_list(source: Path, split: str, places: Sequence[str]) -> Path | None:
    """The first there is of ``places`` (with {} for the split) and of the public code's folder ``metas``."""
    paths = (source / place.format(split) for place in (*places, "metas/{}.txt", "metas/meta_{}.npy"))
    return next((path for path in paths if path.is_file()), None)


def read_list(source: Path, split: str, places: Sequence[str]) -> list[str]:
    """The lines of a split's list, stripped, without empty ones; of a meta file the names, see :func:`read_meta`.

    Raises:
        LDISError: there is none, or it cannot be read.
    """
    path = find_list(source, split, places)
    if path is None:
        raise LDISError(f"{source}: no list of split {split!r}; expected {places[0].format(split)}, see data/README.md")
    return read_meta(path) if path.suffix == ".npy" else read_lines(path)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without empty ones; raises :class:`LDISError` where it cannot be read."""
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    return [name for line in lines if (name := line.strip())]


def read_class_names(path: Path) -> list[str]:
    """The "names" of a ``classes.json``, by label value; empty where there is no such file.

    Raises:
        LDISError: it holds something else.
    """
    if not path.exists():
        return []
    return read_json(path, _Classes, form='{"names": ["background", ...]}, a name for each label')["names"]


def read_class_lists(path: Path) -> dict[str, list[int | str]]:
    """Lists of labels or of names in a ``classes.json``, such as "unseen_classes", by key; none without the file."""
    content = read_json(path) if path.exists() else {}
    return {
        key: value
        for key, value in content.items()
        if isinstance(value, list) and all(isinstance(part, (int, str)) for part in value)
    }


def unlabelled(path: Path) -> str:
    """Why masks with ignored pixels, beside a ``classes.json``, may lack classes of their images; empty otherwise."""
    hidden = read_class_lists(path).get("unseen_classes")
    return f"{path} lists unseen_classes, which its masks may ignore" if hidden else ""


def find_class_names(mask: StrPath) -> Path:
    """The ``classes.json`` of a label map: in its folder or the one above, of a split in ``masks/`` one higher.

    That above where there is none.
    """
    folder = Path(mask).absolute().parent
    above = folder.parent
    folders = [folder, above, *([above.parent] if above.name.lower() in _MASK_FOLDERS else [])]
    paths = [place / "classes.json" for place in folders]
    return next((path for path in paths if path.is_file()), paths[1])


def find_image(folder: Path, stem: str) -> Path:
    """``folder/stem`` with the first suffix that exists; with .jpg if none does."""
    paths = [folder / f"{stem}{suffix}" for suffix in _SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def image_stems(folder: Path) -> list[str]:
    """Stems of the images of a folder, in the order of the numbers in them; hidden files are passed over."""
    inside = sorted(folder.iterdir(), key=natural_key)
    shown = [path.stem for path in inside if path.suffix in _SUFFIXES and not path.name.startswith(".")]
    return list(dict.fromkeys(shown))


def frame_number(stem: str, position: int) -> int:
    """The digits that a frame's name ends in, else its position in the video."""
    match = re.search(r"(\d{1,9})$", stem)
    return int(match[1]) if match else position
