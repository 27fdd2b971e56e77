"""Several data sets as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.episodes import Episode, EpisodeSource


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

    @property
    def num_images(self) -> int:
        """Images of all sources together."""
        return sum(source.num_images for source in self.sources)

    def draw(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """One episode; see :class:`EpisodeSource`."""
        return self.sources[rng.choice(len(self.sources), p=self.probabilities)].draw(rng, num_shots)
