"""What is measured of a trained model beside its run's own evaluation, on painted scenes of unseen classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import fewer_steps
from benchmarks.evidence import pictures
from ldis_jax.evaluators import EpisodeEvaluator
from ldis_jax.evaluators.absence import auroc, calibration_error, reliability
from ldis_jax.evaluators.episodes import is_absent, predict_episodes
from ldis_jax.evaluators.mean_iou import MeanIoU
from ldis_jax.inference.program import make_predict
from ldis_jax.input_pipeline import Episode, FrozenEpisodes, ProceduralScenes, episode_rng
from ldis_jax.media.overlays import to_image
from ldis_jax.models.params import flatten
from ldis_jax.runtime import sharding
from ldis_jax.tasks import LDISN, pseudo_mask
from ldis_jax.tasks.confidence import iou_of
from ldis_jax.weights import load_model

SHOTS = (1, 3, 5, 10, 20)
# A mask that covers less of the image counts as empty; the smallest of 600 objects covered 2.7 %.
EMPTY = 0.005
_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
_BATCH = 16
_SCORED = 512  # episodes that scores are judged on


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

    def absence(self) -> dict[str, Any]:
        """How good scores are, and what a threshold gains and costs, where half of the objects are absent.

        Returns:
            "auroc" and "ece", as of :func:`~ldis_jax.evaluators.absence.absence_figures`; "min_score", the model's own
            threshold; "curve", by thresholds: "empty", the percentage of absent objects whose mask is empty, and
            "miou" and "fb_iou" of present ones; "reliability"; "episodes_hash".
        """
        episodes = FrozenEpisodes.of_draws(self._scenes, _SCORED, 1, seed=1, absent=0.5)
        found = []
        for episode, r in predict_episodes(self._predict, episodes, self.task.image_size, _BATCH):
            mask, score = self.task.confidence.decide(pseudo_mask.to_logit(r), min_score=0)
            found.append((episode, mask, score))
        score = np.array([item[2] for item in found])
        absent = np.array([is_absent(episode) for episode, *_ in found])
        iou = np.array([iou_of(mask, episode.query_mask) for episode, mask, _ in found])
        least = self.task.confidence.min_score
        return {
            "auroc": auroc(score[~absent], score[absent]),
            "ece": calibration_error(score, iou),
            "min_score": least,
            "curve": {str(t): _at_threshold(found, t) for t in (0.0, least, *_THRESHOLDS)},
            "reliability": reliability(score, iou),
            "episodes_hash": episodes.hash,
        }

    def _painted(self, draw: Callable[[np.random.Generator, int], Episode]) -> dict[str, float]:
        episodes = [draw(episode_rng(0, i), 1) for i in range(self._count)]
        outputs = predict_episodes(self._predict, episodes, self.task.image_size, _BATCH)
        areas = np.array([pseudo_mask.to_mask(r).mean() for _, r in outputs])
        return {"area": 100 * float(areas.mean()), "empty": 100 * float((areas < EMPTY).mean())}

    def painted(self) -> np.ndarray:
        """Pseudo masks for :func:`benchmarks.evidence.pictures.episodes`, uint8 [N, S, S, 3]."""
        outputs = predict_episodes(self._predict, pictures.episodes(), self.task.image_size, pictures.COUNT)
        return np.stack([to_image(r) for _, r in outputs])

    def sampling(self) -> list[dict[str, Any]]:
        """LDIS-n's steps, samplers and guidance, see benchmarks/fewer_steps.py."""
        assert isinstance(self.task, LDISN)
        episodes = FrozenEpisodes.of_draws(self._scenes, self._count, num_shots=1)
        return list(fewer_steps.rows(self.task, self.model, episodes, _BATCH))


def _at_threshold(found: Sequence[tuple[Episode, np.ndarray, float]], least: float) -> dict[str, float]:
    """Figures of (episode, mask, score) where a mask whose score is below ``least`` is empty."""
    metric, areas = MeanIoU(), []
    for episode, mask, score in found:
        kept = mask & (score >= least)
        if is_absent(episode):
            areas.append(kept.mean())
        else:
            metric.update(kept, episode.query_mask, episode.class_id)
    result = metric.result()
    empty = 100 * float((np.array(areas) < EMPTY).mean())
    return {"empty": empty, "miou": result["miou"], "fb_iou": result["fb_iou"]}
