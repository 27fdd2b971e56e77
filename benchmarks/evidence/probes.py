"""What is measured of a trained model beside its run's own evaluation, on painted scenes of unseen classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import fewer_steps
from benchmarks.evidence import pictures
from ldis_jax.evaluators import EpisodeEvaluator
from ldis_jax.evaluators.episodes import predict_episodes
from ldis_jax.inference.program import make_predict
from ldis_jax.input_pipeline import Episode, FrozenEpisodes, ProceduralScenes, episode_rng
from ldis_jax.media.overlays import to_picture
from ldis_jax.models.params import flatten
from ldis_jax.runtime import sharding
from ldis_jax.tasks import LDISN, pseudo_mask
from ldis_jax.weights import load_model

SHOTS = (1, 3, 5, 10, 20)
# A mask that covers less of the image counts as empty; the smallest of 600 objects covered 2.7 %.
EMPTY = 0.005
_BATCH = 16


class Probe:
    """A model and the images that it is asked about."""

    def __init__(self, folder: Path, episodes: int):
        """Loads a model folder; ``episodes`` is their number for each figure."""
        self.task, self.model, _ = load_model(folder)
        graphdef, trained, frozen = flatten(self.model)
        mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
        self._predict = functools.partial(make_predict(self.task, graphdef, frozen, mesh), trained)
        self._scenes, self._count = ProceduralScenes("unseen", self.task.image_size), episodes

    def shots(self) -> dict[str, Any]:
        """MIoU and FB-IoU by the number of prompts, on the same queries."""
        found = {}
        for k in SHOTS:
            episodes = FrozenEpisodes.of_draws(self._scenes, self._count, k)
            evaluator = EpisodeEvaluator(episodes, self.task.image_size, max(1, _BATCH // k))
            found[str(k)] = dict(evaluator.run(self._predict)) | {"episodes_hash": episodes.hash}
        return found

    def wrong_prompts(self) -> dict[str, Any]:
        """What is painted where the prompted class is in the query, and where it is not.

        Returns:
            {"present", "absent": {"area": mean share of the image in percent, "empty": share of masks in percent}}.
        """
        draws = {"present": self._scenes.draw, "absent": self._scenes.draw_absent}
        return {name: self._painted(draw) for name, draw in draws.items()}

    def _painted(self, draw: Callable[[np.random.Generator, int], Episode]) -> dict[str, float]:
        episodes = [draw(episode_rng(0, i), 1) for i in range(self._count)]
        outputs = predict_episodes(self._predict, episodes, self.task.image_size, _BATCH)
        areas = np.array([pseudo_mask.to_mask(r).mean() for _, r in outputs])
        return {"area": 100 * float(areas.mean()), "empty": 100 * float((areas < EMPTY).mean())}

    def painted(self) -> np.ndarray:
        """Pseudo masks for :func:`benchmarks.evidence.pictures.episodes`, uint8 [N, S, S, 3]."""
        outputs = predict_episodes(self._predict, pictures.episodes(), self.task.image_size, pictures.COUNT)
        return np.stack([to_picture(r) for _, r in outputs])

    def sampling(self) -> list[dict[str, Any]]:
        """LDIS-n's steps, samplers and guidance, see benchmarks/fewer_steps.py."""
        assert isinstance(self.task, LDISN)
        episodes = FrozenEpisodes.of_draws(self._scenes, self._count, num_shots=1)
        return list(fewer_steps.rows(self.task, self.model, episodes, _BATCH))
