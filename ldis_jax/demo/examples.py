"""Examples for the page, painted at start-up: scenes of the kind that the small models are trained on."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldis_jax.demo.pictures import overlaid
from ldis_jax.demo.uploads import PaintedPrompt
from ldis_jax.input_pipeline.episodes import Episode
from ldis_jax.input_pipeline.procedural import ProceduralScenes

_SIDE, _GAP = 256, 8  # pixels


@dataclasses.dataclass(frozen=True)
class Example:
    """A query, uint8 [S, S, 3], with prompts of one class or more."""

    title: str
    query: np.ndarray
    prompts: tuple[PaintedPrompt, ...]

    def picture(self) -> np.ndarray:
        """The prompts and the query side by side, uint8 [S, S', 3] on white."""
        gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
        tiles = [*overlaid(self.prompts), self.query]
        return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)


def paint_examples() -> list[Example]:
    """The same ones every time, of combinations of shape, colour and pattern that training leaves out."""
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
