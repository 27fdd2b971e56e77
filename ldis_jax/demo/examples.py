"""Examples for the page: photographs, or scenes of the kind that `tiny` is trained on, drawn at start-up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from ldis_jax.demo.pictures import overlaid
from ldis_jax.demo.uploads import PaintedPrompt
from ldis_jax.input_pipeline.episodes import Episode
from ldis_jax.input_pipeline.procedural import ProceduralScenes
from ldis_jax.media.images import read_image
from ldis_jax.media.masks import read_mask

_SIDE, _GAP = 256, 8  # pixels
_FOLDER = Path(__file__).parent / "photographs"
# Of the photographs, for the page; the folder's README.md has their terms.
SOURCES = "<small>Photographs: Brooklyn Museum (no known copyright restrictions), Rachel Michetti (CC0)</small>"


@dataclasses.dataclass(frozen=True)
class Example:
    """A query, uint8 [S, S, 3], with prompts of one class or more."""

    title: str
    query: np.ndarray
    prompts: tuple[PaintedPrompt, ...]

    def image(self) -> np.ndarray:
        """The prompts and the query side by side, uint8 [S, S', 3] on white."""
        gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
        tiles = [self._tile(image) for image in (*overlaid(self.prompts), self.query)]
        return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)

    @staticmethod
    def _tile(image: np.ndarray) -> np.ndarray:
        scale = _SIDE / image.shape[0]
        return cv2.resize(image, (round(image.shape[1] * scale), _SIDE), interpolation=cv2.INTER_AREA)


def make_examples(photographs: bool) -> list[Example]:
    """The same ones every time, for a model that knows photographs, or for one of scenes."""
    return _photographs() if photographs else _scenes()


def _photographs() -> list[Example]:
    coins, query, cup = (read_image(_FOLDER / f"{name}.jpg") for name in ("coins", "coins_query", "cup"))
    marked = [
        PaintedPrompt(image, read_mask(_FOLDER / f"{name}_mask.png").astype(np.uint8), name)
        for name, image in (("coins", coins), ("cup", cup))
    ]
    dark = (cup[:, ::-1] * 0.7).astype(np.uint8)
    return [
        Example("Coins", query, (marked[0],)),
        Example("A cup, mirrored and darker", dark, (marked[1],)),
    ]


def _scenes() -> list[Example]:
    """Combinations of shape, colour and pattern that training leaves out."""
    scenes = ProceduralScenes("unseen", image_size=_SIDE)
    one = scenes.draw(np.random.default_rng(0), 1)
    three = scenes.draw(np.random.default_rng(2), 3)
    pair = scenes.draw_swap(np.random.default_rng(3), 1)
    return [
        Example("One prompt", one.query_image, _prompts(one)),
        Example("Three prompts", three.query_image, _prompts(three)),
        Example("Two classes", pair[0].query_image, _prompts(pair[0]) + _prompts(pair[1])),
    ]


def _prompts(episode: Episode) -> tuple[PaintedPrompt, ...]:
    pairs = zip(episode.prompt_images, episode.prompt_masks, strict=True)
    return tuple(PaintedPrompt(image, mask, episode.class_name) for image, mask in pairs)
