"""What variants paint for the same few episodes: stored beside their results, and one sheet a claim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ldis_jax.input_pipeline import FrozenEpisodes, ProceduralScenes
from ldis_jax.media.images import read_image, write_png
from ldis_jax.media.overlays import contact_sheet, magnify, overlay

COUNT, _SIDE = 6, 64
_TRUTH_COLOUR = (0, 114, 178)


def episodes() -> FrozenEpisodes:
    """The first of those that the variants on painted scenes are judged by."""
    return FrozenEpisodes.of_draws(ProceduralScenes("unseen", _SIDE), COUNT, 1)


def store(painted: np.ndarray, path: Path) -> None:
    """Pseudo masks uint8 [COUNT, S, S, 3] side by side, as a PNG."""
    write_png(path, np.concatenate(list(painted), axis=1))


def sheet(stored: Mapping[str, Path]) -> np.ndarray:
    """A column an episode: its prompt, its query with the truth, and what each variant (label -> PNG) painted."""
    shown = episodes()
    prompts, queries = [], []
    for i in range(len(shown)):
        episode = shown[i]
        for row, image, mask in (
            (prompts, episode.prompt_images[0], episode.prompt_masks[0]),
            (queries, episode.query_image, episode.query_mask),
        ):
            row.append(overlay(magnify(image), magnify(mask) == 1, _TRUTH_COLOUR))
    rows = {"prompt": prompts, "query, with the true mask": queries}
    rows |= {label: np.split(read_image(path), len(shown), axis=1) for label, path in stored.items()}
    return contact_sheet(list(rows.values()), [""] * len(shown), list(rows))


def write_page_sheet(path: Path, shown: np.ndarray) -> None:
    """A sheet for a page, as a PNG of 256 colours, the far ones among them: a third of the bytes."""
    Image.fromarray(shown).quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
