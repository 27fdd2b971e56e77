"""The names of a label map's classes beside their colours, in a corner of an image."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldis_jax.media.overlays import label_colour

_LEAST_SIDE = 64  # pixels of an image in which a name can be read and something else be seen
_LEAST_SIZE, _LINES = 10, 36  # of letters: the fewest pixels, and how many would fit above each other in the image
_MOST_WIDTH, _MOST_HEIGHT = 0.9, 0.5  # of the image's
_GROUND, _SHARE = 20, 0.75  # a dark grey, and how much of it covers the image
_LONGEST = 40  # characters of a name
_Entry = tuple[tuple[int, ...] | None, str]  # a colour, if it has one, and a name


class Legend:
    """Names, laid out once and drawn at the same place on any number of images of one size."""

    def __init__(self, names: Mapping[int, str], labels: np.ndarray):
        """In the corner where it hides the fewest labelled pixels.

        Args:
            names: by label.
            labels: uint8 [H, W], of the image or of the first of a video; 0 and 255 are nothing.
        """
        entries = [(label_colour(label), name) for label, name in names.items()]
        self._layout = _fitting(entries, *labels.shape)
        if self._layout is not None:
            self._place = _quietest_corner(~np.isin(labels, (0, 255)), self._layout.height, self._layout.width)

    def draw(self, image: np.ndarray) -> np.ndarray:
        """The image, uint8 [H, W, 3], with the names on it; as it is where there are none, or no room for any."""
        if self._layout is None:
            return image
        drawn = image.copy()
        under = drawn[self._place]
        under[:] = self._layout.drawn_on(under)
        return drawn


class _Layout(NamedTuple):
    """The layout of a box of names in columns, in pixels; colours are squares as high as letters."""

    columns: list[list[_Entry]]
    widths: list[int]
    size: int

    @property
    def gap(self) -> int:
        return max(2, self.size // 3)

    @property
    def line(self) -> int:
        return round(1.35 * self.size)

    @property
    def height(self) -> int:
        return len(self.columns[0]) * self.line + 2 * self.gap

    @property
    def width(self) -> int:
        return sum(self.widths) + self.gap

    def drawn_on(self, part: np.ndarray) -> np.ndarray:
        """The box over a part of an image of its size, uint8 [h, w, 3], which shines through."""
        image = Image.fromarray(np.round((1 - _SHARE) * part + _SHARE * _GROUND).astype(np.uint8))
        draw, font, left = ImageDraw.Draw(image), _font(self.size), self.gap
        for column, width in zip(self.columns, self.widths, strict=True):
            for row, (colour, name) in enumerate(column):
                middle = self.gap + self.line * row + self.line // 2
                top, right = middle - self.size // 2, left + self.size
                if colour is not None:
                    draw.rectangle(
                        (left, top, right - 1, top + self.size - 1), colour, "white", max(1, self.size // 12)
                    )
                draw.text((right + self.gap if colour else left, middle), name, "white", font, anchor="lm")
            left += width
        return np.asarray(image)


def _fitting(entries: Sequence[_Entry], height: int, width: int) -> _Layout | None:
    """All names, where smaller letters or more columns make room for them; else the first of them."""
    if min(height, width) < _LEAST_SIDE or not entries:
        return None
    size = max(_LEAST_SIZE, round(min(height, width) / _LINES))
    for smaller in (size, max(_LEAST_SIZE, 2 * size // 3), _LEAST_SIZE):
        for columns in (1, 2, 3):
            layout = _laid_out(entries, columns, smaller, width)
            if layout.height <= _MOST_HEIGHT * height and layout.width <= _MOST_WIDTH * width:
                return layout
    shown = 1
    while shown < len(entries) and _cut(entries, shown + 1, width).height <= _MOST_HEIGHT * height:
        shown += 1
    return _cut(entries, shown, width)


def _cut(entries: Sequence[_Entry], shown: int, width: int) -> _Layout:
    rest: _Entry = (None, f"and {len(entries) - shown} more")
    return _laid_out([*entries[:shown], rest], 1, _LEAST_SIZE, width)


def _laid_out(entries: Sequence[_Entry], columns: int, size: int, width: int) -> _Layout:
    """Names too long for the image are shortened."""
    font, rows = _font(size), -(-len(entries) // columns)
    beside = size + 3 * max(2, size // 3)  # the colour, and gaps
    short = [(colour, _shortened(name, font, _MOST_WIDTH * width - 2 * beside)) for colour, name in entries]
    parts = [short[start : start + rows] for start in range(0, len(short), rows)]
    widths = [beside + round(max(font.getlength(name) for _, name in part)) for part in parts]
    return _Layout(parts, widths, size)


def _shortened(name: str, font: ImageFont.FreeTypeFont, most: float) -> str:
    shown = name[:_LONGEST]
    while len(shown) > 1 and font.getlength(shown) > most:
        shown = shown[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    return shown


def _quietest_corner(labelled: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """The corner where a box of that size covers the fewest labelled pixels; the first of equals from the top left."""
    rows = slice(0, height), slice(labelled.shape[0] - height, None)
    columns = slice(0, width), slice(labelled.shape[1] - width, None)
    return min(((row, column) for row in rows for column in columns), key=lambda place: labelled[place].sum())


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it has the letters of most alphabets."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
