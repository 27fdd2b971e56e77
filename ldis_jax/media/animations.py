"""Animations, by their content: GIF, WebP, PNG and AVIF files of several images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.support.files import StrPath, reading

_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
# As browsers do: a frame that asks for less than this shows for that long. Both in milliseconds.
_LEAST, _INSTEAD = 20, 100


def is_animation(path: StrPath) -> bool:
    """True if a file is one; false of what cannot be read."""
    with contextlib.suppress(LDISError), _opened(path) as image:
        return bool(getattr(image, "is_animated", False))
    return False


def length(path: StrPath) -> tuple[int, float]:
    """The number of frames, and how many of them show in a second by the first one's time.

    Raises:
        LDISError: it cannot be read.
    """
    with _opened(path) as image:
        frames = _frames(image)
        image.seek(frames.start)
        image.load()  # only now some formats tell its time
        return len(frames), 1 / _seconds(image)


def read_animation(path: StrPath) -> Iterator[tuple[Image.Image, float]]:
    """Its frames, each with the seconds that it shows; ends where the file is damaged.

    Raises:
        LDISError: not even the first one can be read.
    """
    with _opened(path) as image:
        for i in (frames := _frames(image)):
            try:
                with reading(path):
                    image.seek(i)
                    frame = image.copy()  # which decodes it
            except LDISError:
                if i == frames.start:
                    raise
                return
            yield frame, _seconds(image)


@contextlib.contextmanager
def _opened(path: StrPath) -> Iterator[Any]:
    with reading(Path(path)), Image.open(path, formats=_FORMATS) as image:
        yield image


def _frames(image: Any) -> range:
    """Those to look for. A PNG may begin with an image for programs that know no animations."""
    first = int(bool(getattr(image, "default_image", False)))
    with contextlib.suppress(Exception):
        return range(first, image.n_frames)
    return range(first, image.tell() + 2)  # a damaged GIF cannot count further than to the first bad one


def _seconds(image: Any) -> float:
    milliseconds = image.info.get("duration", 0)
    return (milliseconds if milliseconds >= _LEAST else _INSTEAD) / 1000
