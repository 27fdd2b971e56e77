"""Does the prompt decide? Two objects in one query, each prompted once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ldis_jax.evaluators.episodes import Predict, predict_episodes
from ldis_jax.input_pipeline import Episode
from ldis_jax.tasks import pseudo_mask


class PromptSwapEvaluator:
    """Yields "prompt_swap": the share of prompts whose own object gets a higher IoU than the other one."""

    def __init__(self, pairs: Sequence[tuple[Episode, Episode]], image_size: int, batch_size: int):
        """Takes pairs of episodes that share a query and differ in the prompted object."""
        self.episodes = [episode for pair in pairs for episode in pair]
        self.image_size, self.batch_size = image_size, batch_size

    def run(self, predict: Predict) -> Iterator[tuple[str, float]]:
        """Evaluates a network."""
        outputs = list(predict_episodes(predict, self.episodes, self.image_size, self.batch_size, title="prompt swap"))
        wins = 0
        for i, (episode, r) in enumerate(outputs):
            mask = pseudo_mask.to_mask(r)
            other = self.episodes[i ^ 1]
            wins += _iou(mask, episode.query_mask == 1) > _iou(mask, other.query_mask == 1)
        yield "prompt_swap", wins / len(outputs)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / np.maximum((a | b).sum(), 1))
