"""Pictures for people: overlays, contact sheets and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldis_jax.support.files import atomic_write

# Okabe and Ito's colour-blind-safe palette; vermilion stands out on foliage, skin and sky alike.
PALETTE = np.array(
    [(213, 94, 0), (0, 114, 178), (240, 228, 66), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0)],
    np.uint8,
)
_CURVES = (1, 0, 3, 4, 5, 6)  # without yellow, which white paper swallows
# Of a contact sheet, in pixels.
_MARGIN, _SIDE, _LINE = 6, 160, 18


def overlay(image: np.ndarray, mask: np.ndarray, colour: Sequence[int] = tuple(PALETTE[0])) -> np.ndarray:
    """Tints the object and draws its outline, light inside dark, so that it shows on any background.

    Args:
        image: uint8 [H, W, 3].
        mask: bool [H, W].
        colour: RGB.

    Returns:
        uint8 [H, W, 3].
    """
    tinted = image.astype(np.float32)
    tinted[mask] = 0.5 * tinted[mask] + 0.5 * np.asarray(colour, np.float32)
    return _outlined(tinted, mask)


def spotlight(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The object in its own colours, outlined, and all else faded; arguments and result as :func:`overlay`'s."""
    faded = image.astype(np.float32)
    faded[~mask] = 0.25 * faded[~mask] + 0.75 * 225
    return _outlined(faded, mask)


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    result = np.ascontiguousarray(image.astype(np.uint8))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(min(image.shape[:2]) / 200))
    cv2.drawContours(result, contours, -1, (0, 0, 0), 2 * width)
    cv2.drawContours(result, contours, -1, (255, 255, 255), width)
    return result


def overlay_labels(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """:func:`overlay` of every label of uint8 [H, W] but 0 and 255, each in a colour of its own."""
    for label in np.unique(labels):
        if label not in (0, 255):
            image = overlay(image, labels == label, PALETTE[(int(label) - 1) % len(PALETTE)])
    return image


def to_picture(x: np.ndarray) -> np.ndarray:
    """[-1, 1] float -> uint8."""
    return np.clip(np.round((x + 1.0) * 127.5), 0, 255).astype(np.uint8)


def probability_picture(values: np.ndarray) -> np.ndarray:
    """[H, W] in [0, 1] -> uint8 [H, W, 3] from dark blue to yellow (cividis), even steps to colour-blind eyes too."""
    grey = np.clip(np.round(255 * values), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)


def magnify(picture: np.ndarray) -> np.ndarray:
    """Repeats the pixels of a small picture or mask [H, W, ...] until outlines drawn on it are fine beside them."""
    times = max(1, -(-_SIDE // max(picture.shape[:2])))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def heat_map(picture: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """A picture in pale grey under values in viridis, which colour-blind eyes and grey print keep in order.

    Args:
        picture: uint8 [H, W, 3].
        values: float [h, w], spread over the picture, each in a block of its own.
        low: the value that is darkest.
        high: the value that is brightest.

    Returns:
        uint8 [H, W, 3].
    """
    from matplotlib import colormaps

    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    blocks = cv2.resize(share, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    colours = colormaps["viridis"](blocks)[..., :3] * 255
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    return np.round(0.65 * colours + 0.35 * grey).astype(np.uint8)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Tiles of one height in rows, under column titles, each row under a line of text of its own.

    Args:
        rows: uint8 [H, W, 3] pictures of any size.
        titles: one a column.
        labels: one a row; an empty one takes no line.

    Returns:
        uint8 [H', W', 3].
    """
    font = ImageFont.load_default(13)
    tiles = [[_tile(picture) for picture in row] for row in rows]
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


def write_page_sheet(path: Path, sheet: np.ndarray) -> None:
    """A sheet for a page, as a PNG of 256 colours, the far ones among them: a third of the bytes."""
    with atomic_write(path) as temporary:
        image = Image.fromarray(sheet).quantize(256, Image.Quantize.MAXCOVERAGE)
        image.save(temporary, format="PNG", optimize=True)


def _tile(picture: np.ndarray) -> Image.Image:
    tile = Image.fromarray(picture)
    scale = _SIDE / max(tile.size)
    # Small pictures are magnified without blur: their pixels are what there is to judge.
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))), how)


def plot_curves(curves: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    """One small plot a quantity over steps, its curves ("seen/miou", "unseen/miou") together; loss logarithmic.

    Args:
        curves: "<group>/<quantity>" or "<quantity>" -> (steps, values).
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plots: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for name, curve in curves.items():
        group, _, quantity = name.rpartition("/")
        plots.setdefault(quantity, {})[group] = curve
    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (quantity, groups) in enumerate(plots.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        for colour, (group, (steps, values)) in enumerate(groups.items()):
            rgb = tuple(PALETTE[_CURVES[colour % len(_CURVES)]] / 255)
            axes.plot(steps, values, color=rgb, marker="o" if len(steps) < 30 else None, markersize=3, label=group)
        axes.set(title=quantity, xlabel="step")
        axes.ticklabel_format(useOffset=False)
        axes.locator_params(axis="x", integer=True)
        if quantity == "loss" and all(min(values) > 0 for _, values in groups.values()):
            axes.set_yscale("log")
        if len(groups) > 1:
            axes.legend()
        axes.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_bars(values: Mapping[str, float], title: str, path: Path) -> None:
    """Horizontal bars, the longest on top.

    Args:
        values: name -> percent.
        title: above the plot.
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(values, key=lambda name: values[name])
    figure = Figure(figsize=(6.4, 1.2 + 0.22 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh(names, [values[name] for name in names], color=tuple(PALETTE[1] / 255))
    axes.set(title=title, xlim=(0, 100))
    axes.margins(y=0.01)
    axes.grid(axis="x", alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_shots(points: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], path: Path) -> None:
    """MIoU over the number of prompts, beside its gain over the fewest; bands are the 95 % intervals.

    Args:
        points: "num_shots", "miou", "miou_interval", "gain" and "gain_interval", in percent; by number of prompts. An
            interval may be None.
        baselines: name -> mIoU, the same for any number of prompts.
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    shots = [point["num_shots"] for point in points]
    titles = {"miou": "mIoU, percent", "gain": f"mIoU over {shots[0]}-shot, points"}
    for i, (name, title) in enumerate(titles.items()):
        axes = figure.add_subplot(1, 2, i + 1)
        colour = tuple(PALETTE[1] / 255)
        axes.plot(shots, [point[name] for point in points], color=colour, marker="o", label="this model")
        low, high = zip(*(point[f"{name}_interval"] or (point[name],) * 2 for point in points), strict=True)
        axes.fill_between(shots, low, high, color=colour, alpha=0.2, linewidth=0)
        if name == "miou":
            for j, (baseline, value) in enumerate(baselines.items()):
                axes.axhline(value, color=tuple(PALETTE[_CURVES[1 + j]] / 255), linestyle="--", label=baseline)
            figure.legend(loc="outside lower center", ncols=1 + len(baselines))
        else:
            axes.axhline(0, color="grey", linewidth=1)
        axes.set(title=title, xlabel="prompts", xscale="log")
        axes.set_xticks(shots, [str(k) for k in shots])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
