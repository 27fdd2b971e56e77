"""Query images of any size as the network's squares, and the network's output at the image's own size again."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldis_jax.input_pipeline.transforms import eval_image, restore_size, tile_side
from ldis_jax.media.overlays import to_image
from ldis_jax.support.checks import check_integer
from ldis_jax.tasks import Task
from ldis_jax.tasks.pseudo_mask import to_logit


@dataclasses.dataclass(frozen=True)
class Tile:
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The view of [..., H, W, C] under the tile."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width, :]


def make_tiles(height: int, width: int, tile_size: int | None, tile: float = 1.0) -> list[Tile]:
    """Squares of ``tile_size`` pixels that overlap by a quarter or more; where that is None, what the task says.

    ``tile`` is the task's: of 1 the whole image is the only one.

    Raises:
        LDISError: tiles of less than 16 pixels.
    """
    if tile_size is not None:
        tile_size = check_integer("tile_size", tile_size, 16, " pixels of the query")
    elif tile == 1:
        return [Tile(0, 0, height, width)]
    else:
        tile_size = tile_side(height, width, tile)
    sides = min(tile_size, height), min(tile_size, width)
    starts = [_starts(length, side) for length, side in zip((height, width), sides, strict=True)]
    return [Tile(top, left, *sides) for top in starts[0] for left in starts[1]]


def _starts(length: int, side: int) -> list[int]:
    """Evenly spaced, as few as overlap by a quarter."""
    overlap = side // 4
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


class Mosaic:
    """R of one image, put together from that of its tiles: their mean, which trusts middles most.

    Attributes:
        tiles: all of them.
    """

    def __init__(self, image: np.ndarray, image_size: int, tile: float):
        """Takes an image uint8 [H, W, 3], and the task's sizes."""
        self.tiles = make_tiles(image.shape[0], image.shape[1], None, tile)
        self._image, self._image_size = image, image_size
        self._missing = len(self.tiles)
        shape = image.shape if len(self.tiles) > 1 else (0,)
        self._sum, self._weight = np.zeros(shape, np.float32), np.zeros((*shape[:2], 1), np.float32)

    def square(self, tile: Tile) -> np.ndarray:
        """A tile as the network takes it, float32 [S, S, 3] in [-1, 1]."""
        return eval_image(tile.cut(self._image), self._image_size)

    def add(self, tile: Tile, r: np.ndarray) -> np.ndarray | None:
        """Takes R of a tile, float32 [S, S, 3]; returns R float32 [H, W, 3] once the last is there."""
        restored = restore_size(r, tile.height, tile.width)
        if len(self.tiles) == 1:
            return restored
        weight = _ramp(tile.height)[:, None, None] * _ramp(tile.width)[None, :, None]
        for total, part in ((self._sum, weight * restored), (self._weight, weight)):
            view = tile.cut(total)
            view += part
        self._missing -= 1
        return None if self._missing else self._sum / self._weight


class Canvas:
    """The network's output for one image, tile by tile, at the image's own size.

    Of R itself only the rows that tiles to come still reach are held.

    Attributes:
        image: uint8 [H, W, 3].
        tiles: in the order in which they are to be added.
        missing: how many renderings are to come; the following are whole once it is 0.
        logits: float32 [C, H, W], R[1] - R[0] of every class; where tiles overlap, the mean that trusts their middles
            most.
        pseudo_mask: what the decoder rendered for the first class, uint8 [S, S, 3], of several tiles [H, W, 3].
    """

    def __init__(self, image: np.ndarray, num_classes: int, task: Task, tile_size: int | None = None):
        """Empty; ``image`` is uint8 [H, W, 3]."""
        self.image, self.tiles = image, make_tiles(image.shape[0], image.shape[1], tile_size, task.tile)
        self.missing = len(self.tiles) * num_classes
        self.logits = np.zeros((num_classes, *image.shape[:2]), np.float32)
        self.pseudo_mask = np.zeros_like(image) if len(self.tiles) > 1 else np.zeros(0, np.uint8)
        self._task = task
        # Sums of R and of weights, from a row of the image on.
        strip = (self.tiles[0].height, image.shape[1]) if len(self.tiles) > 1 else (0, 0)
        self._sum, self._weight = np.zeros((num_classes, *strip, 3), np.float32), np.zeros((*strip, 1), np.float32)
        self._first_row = 0
        self._squares: dict[Tile, np.ndarray] = {}  # fitted for the network, until R is made of what it renders

    def square(self, tile: Tile) -> np.ndarray:
        """A tile as the network takes it, float32 [S, S, 3] in [-1, 1]."""
        if tile not in self._squares:
            self._squares[tile] = eval_image(tile.cut(self.image), self._task.image_size)
        return self._squares[tile]

    def add(self, tile: Tile, class_index: int, rendered: np.ndarray) -> None:
        """Adds a tile's rendering, float32 [S, S, 3]; tiles, and the classes of each, come in their order."""
        self.missing -= 1
        restored = restore_size(self._task.residual(rendered, self.square(tile)), tile.height, tile.width)
        if len(self.tiles) == 1:
            self.logits[class_index] = to_logit(restored)
            if class_index == 0:
                self.pseudo_mask = to_image(rendered)
            return
        self._finish(tile.top)
        weight = _ramp(tile.height)[:, None, None] * _ramp(tile.width)[None, :, None]
        columns = slice(tile.left, tile.left + tile.width)
        self._sum[class_index, :, columns] += weight * restored
        if class_index == 0:
            self._weight[:, columns] += weight
        if class_index == len(self._sum) - 1:
            del self._squares[tile]
        if not self.missing:
            self._finish(len(self.image))

    def _finish(self, row: int) -> None:
        """Makes the results of the rows before ``row``, which no tile to come reaches."""
        rows, done = slice(self._first_row, row), row - self._first_row
        if not done:
            return
        r = self._sum[:, :done] / self._weight[:done]
        self.logits[:, rows] = to_logit(r)
        self.pseudo_mask[rows] = to_image(self._task.rendered(r[0], self.image[rows] / 127.5 - 1))
        for strip in (self._sum.swapaxes(0, 1), self._weight):
            strip[: len(strip) - done] = strip[done:]
            strip[len(strip) - done :] = 0
        self._first_row = row


def _ramp(length: int) -> np.ndarray:
    """From the borders of a tile to its middle, float32 [length] in (0, 1]."""
    place = np.arange(length, dtype=np.float32) + 0.5
    return np.minimum(place, length - place) / (length / 2)
