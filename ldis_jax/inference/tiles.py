"""Query pictures of any size as the network's squares, and the network's output at the picture's own size again."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldis_jax.input_pipeline.transforms import eval_image, restore_size
from ldis_jax.media.overlays import to_picture
from ldis_jax.support.checks import check_integer


@dataclasses.dataclass(frozen=True)
class Tile:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """What of [..., H, W, C] lies under it, a view."""
        return picture[..., self.top : self.top + self.height, self.left : self.left + self.width, :]


def make_tiles(height: int, width: int, tile_size: int | None) -> list[Tile]:
    """The whole picture as one tile where ``tile_size`` is None, else squares that overlap by a quarter or more.

    Raises:
        LDISError: tiles of less than 16 pixels.
    """
    if tile_size is None:
        return [Tile(0, 0, height, width)]
    tile_size = check_integer("tile_size", tile_size, 16, " pixels of the query")
    sides = min(tile_size, height), min(tile_size, width)
    starts = [_starts(length, side) for length, side in zip((height, width), sides, strict=True)]
    return [Tile(top, left, *sides) for top in starts[0] for left in starts[1]]


def _starts(length: int, side: int) -> list[int]:
    """Evenly spaced, as few as overlap by a quarter."""
    overlap = side // 4
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


class Canvas:
    """What the network says of one picture, tile by tile: R of every class at the picture's own size."""

    def __init__(self, picture: np.ndarray, num_classes: int, tile_size: int | None):
        """Empty; ``picture`` is uint8 [H, W, 3]."""
        self.picture, self.tiles = picture, make_tiles(picture.shape[0], picture.shape[1], tile_size)
        self.missing = len(self.tiles) * num_classes
        shape = picture.shape[:2]
        self._sum = np.zeros((num_classes, *shape, 3), np.float32) if len(self.tiles) > 1 else None
        self._weight = np.zeros((*shape, 1), np.float32)
        self._whole: list[np.ndarray] = [np.zeros(0)] * num_classes
        self._painted = np.zeros(0)  # for the first class, before it is scaled

    def square(self, tile: Tile, size: int) -> np.ndarray:
        """A tile as the network takes it, float32 [S, S, 3] in [-1, 1]."""
        return eval_image(tile.cut(self.picture), size)

    def add(self, tile: Tile, class_index: int, r: np.ndarray) -> None:
        """The network's output R for a tile, float32 [S, S, 3]."""
        self.missing -= 1
        restored = restore_size(r, tile.height, tile.width)
        if self._sum is None:
            self._whole[class_index] = restored
            if class_index == 0:
                self._painted = r
            return
        weight = _ramp(tile.height)[:, None, None] * _ramp(tile.width)[None, :, None]
        tile.cut(self._sum[class_index])[:] += weight * restored
        if class_index == 0:
            tile.cut(self._weight)[:] += weight

    def pseudo_mask(self, r: np.ndarray, share: float) -> np.ndarray:
        """What the decoder painted for the first class, uint8 [S, S, 3], of several tiles [H, W, 3].

        ``r`` is that class's of :meth:`r`, ``share`` the part of the query that it lacks, g.
        """
        if self._sum is None:
            return to_picture(self._painted + share * self.square(self.tiles[0], len(self._painted)))
        return to_picture(r + share * (self.picture / 127.5 - 1))

    def r(self) -> np.ndarray:
        """R of every class, float32 [C, H, W, 3]; where tiles overlap, the mean that trusts their middles most."""
        return np.stack(self._whole) if self._sum is None else self._sum / self._weight


def _ramp(length: int) -> np.ndarray:
    """From the borders of a tile to its middle, float32 [length] in (0, 1]."""
    place = np.arange(length, dtype=np.float32) + 0.5
    return np.minimum(place, length - place) / (length / 2)
