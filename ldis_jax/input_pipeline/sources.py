"""Episode sources from the config's entries, several as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.episodes import Episode, EpisodeSource
from ldis_jax.input_pipeline.image_folder import SPLITS, ImageFolder
from ldis_jax.input_pipeline.procedural import ProceduralScenes
from ldis_jax.input_pipeline.record_source import RecordSource
from ldis_jax.input_pipeline.voc_folder import VOCFolder


def make_source(entries: Mapping[str, Any], image_size: int) -> EpisodeSource:
    """One source, or the mixture of several with their per-sample weights.

    Args:
        entries: by name, as :mod:`ldis_jax.recipes.data` makes them.
        image_size: S; procedural images are painted at that size.

    Raises:
        LDISError: no entry, an unknown kind or split, or unusable data.
    """
    sources = [_source(name, entry, image_size) for name, entry in entries.items()]
    return sources[0] if len(sources) == 1 else MixtureSource(sources, [e.weight for e in entries.values()])


def _source(name: str, entry: Any, image_size: int) -> EpisodeSource:
    match entry.kind, entry.split:
        case "voc", split:
            return VOCFolder(entry.root, split, entry.classes or None)
        case "records", split:
            return RecordSource(entry.root, split, entry.classes or None)
        case "folder", split if split in SPLITS:
            return ImageFolder(entry.root, split, entry.classes, entry.skip_bad, others=entry.others)
        case "procedural", ("train" | "unseen") as split:
            return ProceduralScenes(split, image_size)
    raise LDISError(
        f"{name}: kind={entry.kind!r} of split {entry.split!r}: must be 'voc' or 'records', 'folder' of "
        f"{', '.join(map(repr, SPLITS))}, or 'procedural' of 'train' or 'unseen'"
    )


class MixtureSource:
    """Draws a source, with replacement and p proportional to weight x its number of images, then an episode from it.

    So weights are per *image*, as in the public sampler: at equal weights a larger data set is drawn more often. The
    paper's are 0.4, 0.1, 0.5, 0.2 for PASCAL, COCO, DAVIS-16, VSPW.
    """

    def __init__(self, sources: Sequence[EpisodeSource], weights: Sequence[float]):
        """Binds sources to weights (not negative, any sum)."""
        mass = np.array([w * source.num_images for source, w in zip(sources, weights, strict=True)], np.float64)
        if not (np.isfinite(mass).all() and (mass >= 0).all() and mass.sum() > 0):
            raise LDISError(
                f"config.data.sources: weights {list(weights)} must be one or more, finite, not negative and not all 0"
            )
        self.sources = tuple(sources)
        self.probabilities = mass / mass.sum()
        self._absent: dict[int, np.ndarray] = {}  # probabilities of episodes that ask for what is not there

    @property
    def num_images(self) -> int:
        """Images of all sources together."""
        return sum(source.num_images for source in self.sources)

    def draw(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """One episode; see :class:`EpisodeSource`."""
        return self.sources[rng.choice(len(self.sources), p=self.probabilities)].draw(rng, num_shots)

    def check_absent(self, num_shots: int) -> None:
        """See :class:`EpisodeSource`; one of the sources is enough."""
        self._absent_probabilities(num_shots)

    def draw_absent(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """See :class:`EpisodeSource`; drawn from the sources that can."""
        probabilities = self._absent_probabilities(num_shots)
        return self.sources[rng.choice(len(self.sources), p=probabilities)].draw_absent(rng, num_shots)

    def _absent_probabilities(self, num_shots: int) -> np.ndarray:
        if num_shots not in self._absent:
            can, reasons = np.zeros(len(self.sources)), []
            for i, source in enumerate(self.sources):
                try:
                    source.check_absent(num_shots)
                    can[i] = self.probabilities[i]
                except LDISError as error:
                    reasons.append(str(error))
            if not can.any():
                raise LDISError("; ".join(reasons))
            self._absent[num_shots] = can / can.sum()
        return self._absent[num_shots]
