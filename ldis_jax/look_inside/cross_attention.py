"""The UNet's cross-attention from a query to its prompts, laid out over both images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ldis_jax.errors import LDISError, list_names
from ldis_jax.look_inside.token_grid import TokenGrid

# In the query as the network sees it: a pixel (row, column), or the pixels of a bool [S, S] mask, of which the mean is
# taken.
Place = tuple[int, int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class CrossAttention:
    """Cross-attention of one evaluation of the UNet, mean over the heads.

    Attributes:
        query: uint8 [S, S, 3], the query as the network sees it: long side S, padded right and below.
        mask: bool [S, S], the object as this evaluation has it.
        prompts: the tokens that are attended to.
        weights: layer -> float32 [s, s, K, G, G], from the query's places, at the layer's resolution, to the tokens;
            over all tokens they sum to 1. Layers have diffusers' names and are in the order of evaluation.
    """

    query: np.ndarray
    mask: np.ndarray
    prompts: TokenGrid
    weights: Mapping[str, np.ndarray]

    def layers_of(self, side: int) -> tuple[str, ...]:
        """The layers whose resolution is ``side`` x ``side``."""
        return tuple(name for name, weights in self.weights.items() if len(weights) == side)

    def prompt_map(self, place: Place, layers: Sequence[str] = ()) -> np.ndarray:
        """How much each token is attended to, mean over layers: float32 [K, G, G], sums to 1.

        Args:
            place: in the query.
            layers: names; all where none is given.

        Raises:
            LDISError: a place outside the query, a mask that is empty or of another size, an unknown layer.
        """
        pixels = self.pixels(place).astype(np.float32)
        maps = []
        for weights in self._chosen(layers):
            cells = cv2.resize(pixels, weights.shape[1::-1], interpolation=cv2.INTER_AREA)
            maps.append(np.tensordot(cells / cells.sum(), weights, axes=2))
        return np.mean(maps, axis=0)

    def query_map(self, token: tuple[int, int, int], layers: Sequence[str] = ()) -> np.ndarray:
        """How much each place of the query attends to a token, mean over layers: float32 [S, S] in [0, 1].

        Args:
            token: one token; ``best_token`` gives a telling one.
            layers: names; all where none is given.

        Raises:
            LDISError: a token outside the prompts' grids, an unknown layer.
        """
        shape = self.prompts.on_object.shape
        if len(token) != 3 or not all(0 <= i < n for i, n in zip(token, shape, strict=True)):
            raise LDISError(f"token {token}: must be (prompt, row, column) within {shape}")
        size = self.query.shape[1::-1]
        maps = [cv2.resize(w[(..., *token)], size, interpolation=cv2.INTER_LINEAR) for w in self._chosen(layers)]
        return np.mean(maps, axis=0)

    def best_token(self, place: Place, layers: Sequence[str] = ()) -> tuple[int, int, int]:
        """The token that a place attends to most; arguments as :meth:`prompt_map`'s."""
        found = self.prompt_map(place, layers)
        prompt, row, column = np.unravel_index(found.argmax(), found.shape)
        return int(prompt), int(row), int(column)

    def pixels(self, place: Place) -> np.ndarray:
        """The pixels of a place, bool [S, S]."""
        size, pixels, given = self.query.shape[:2], place, f"place {place}"
        if isinstance(pixels, np.ndarray):
            given = f"mask {pixels.dtype} {pixels.shape}"
        else:
            pixels = np.zeros(size, bool)
            if len(place) == 2 and min(place) >= 0:
                pixels[place[0] : place[0] + 1, place[1] : place[1] + 1] = True
        if pixels.shape != size or pixels.dtype != np.bool_ or not pixels.any():
            raise LDISError(f"{given}: must be (row, column) within {size}, or a bool mask of that size and not empty")
        return pixels

    def _chosen(self, layers: Sequence[str]) -> list[np.ndarray]:
        if unknown := set(layers) - self.weights.keys():
            raise LDISError(f"unknown layer {list_names(unknown)}; one of {', '.join(self.weights)}")
        return [self.weights[name] for name in layers or self.weights]
