"""Images for people: overlays, maps and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colour-blind-safe palette; vermilion stands out on foliage, skin and sky alike.
PALETTE = np.array(
    [(213, 94, 0), (0, 114, 178), (240, 228, 66), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0)],
    np.uint8,
)
# Of labels: the palette, and then colours that are each as far as can be, in CIELAB, from all before, black and white.
_MORE = (
    *((0, 0, 255), (0, 255, 0), (255, 34, 238), (85, 34, 153), (255, 0, 102), (102, 119, 0), (153, 255, 136)),
    *((119, 34, 34), (255, 170, 136), (0, 255, 255), (204, 136, 255), (187, 0, 136), (0, 153, 0), (204, 221, 153)),
)
LABEL_COLOURS = np.concatenate([PALETTE, np.array(_MORE, np.uint8)])
# Of a contact sheet, in pixels.
_MARGIN, _SIDE, _LINE = 6, 160, 18


def overlay(image: np.ndarray, mask: np.ndarray, colour: Sequence[int] = tuple(PALETTE[0])) -> np.ndarray:
    """Tints the object, bool [H, W], of an image, uint8 [H, W, 3]; its outline, light inside dark, shows anywhere."""
    return _outlined(_tinted(image, mask, colour), mask)


def spotlight(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The object in its own colours, outlined, and all else faded; arguments and result as :func:`overlay`'s."""
    faded = image.astype(np.float32)
    faded[~mask] = 0.25 * faded[~mask] + 0.75 * 225
    return _outlined(faded, mask)


def _tinted(image: np.ndarray, mask: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    tinted = image.astype(np.float32)
    tinted[mask] = 0.5 * tinted[mask] + 0.5 * np.asarray(colour, np.float32)
    return tinted


def _outlined(image: np.ndarray, mask: np.ndarray, colour: Sequence[int] = (255, 255, 255)) -> np.ndarray:
    result = np.ascontiguousarray(image.astype(np.uint8))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(min(image.shape[:2]) / 200))
    cv2.drawContours(result, contours, -1, (0, 0, 0), 2 * width)
    cv2.drawContours(result, contours, -1, tuple(map(int, colour)), width)
    return result


def overlay_labels(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """:func:`overlay` of every label of uint8 [H, W] but 0 and 255, each in a colour of its own.

    The outlines are in these colours, too: of thin things little else is seen.
    """
    for label in np.unique(labels):
        if label not in (0, 255):
            colour = label_colour(int(label))
            image = _outlined(_tinted(image, labels == label, colour), labels == label, colour)
    return image


def label_colour(label: int) -> tuple[int, int, int]:
    """The colour of a label from 1 on; 21 colours repeat from 22 on."""
    red, green, blue = LABEL_COLOURS[(label - 1) % len(LABEL_COLOURS)].tolist()
    return red, green, blue


def to_image(x: np.ndarray) -> np.ndarray:
    """[-1, 1] float -> uint8."""
    return np.clip(np.round((x + 1.0) * 127.5), 0, 255).astype(np.uint8)


def probability_image(values: np.ndarray) -> np.ndarray:
    """[H, W] in [0, 1] -> uint8 [H, W, 3] from dark blue to yellow (cividis), even steps to colour-blind eyes too."""
    grey = np.clip(np.round(255 * values), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)


def magnify(image: np.ndarray) -> np.ndarray:
    """Repeats the pixels of a small image or mask [H, W, ...] until outlines drawn on it are fine beside them."""
    times = max(1, -(-_SIDE // max(image.shape[:2])))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def heat_map(image: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """An image, uint8 [H, W, 3], in pale grey under values in viridis, which all eyes and grey print keep in order.

    ``values``, float [h, w], are spread over the image, each in a block of its own; ``low`` is darkest, ``high``
    brightest.
    """
    from matplotlib import colormaps

    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    blocks = cv2.resize(share, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    colours = colormaps["viridis"](blocks)[..., :3] * 255
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return np.round(0.65 * colours + 0.35 * grey).astype(np.uint8)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Tiles of one height in rows, under column titles, each row under a line of text of its own.

    Args:
        rows: uint8 [H, W, 3] images of any size.
        titles: one a column.
        labels: one a row; an empty one takes no line.

    Returns:
        uint8 [H', W', 3].
    """
    font = ImageFont.load_default(13)
    tiles = [[_tile(image) for image in row] for row in rows]
    lines = [_LINE if label else 0 for label in labels]
    # Twice the margin above a label: it belongs to the tiles below it.
    heights = [line + max(tile.height for tile in row) + 2 * _MARGIN for line, row in zip(lines, tiles, strict=True)]
    width = len(titles) * (_SIDE + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, _LINE + _MARGIN + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((_MARGIN + column * (_SIDE + _MARGIN), 4), title, "black", font)
    top = _LINE + _MARGIN
    for row, line, height, label in zip(tiles, lines, heights, labels, strict=True):
        draw.text((_MARGIN, top), label, "black", font)
        for column, tile in enumerate(row):
            sheet.paste(tile, (_MARGIN + column * (_SIDE + _MARGIN), top + line))
        top += height
    return np.asarray(sheet)


def _tile(image: np.ndarray) -> Image.Image:
    tile = Image.fromarray(image)
    scale = _SIDE / max(tile.size)
    # Small images are magnified without blur: their pixels are what there is to judge.
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))), how)
