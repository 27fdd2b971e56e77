"""Predictions a person can judge at a glance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ldis_jax.evaluators.episodes import Predict, predict_episodes
from ldis_jax.input_pipeline import Episode
from ldis_jax.media.images import write_png
from ldis_jax.media.overlays import contact_sheet, magnify, overlay, to_image
from ldis_jax.tasks import pseudo_mask
from ldis_jax.tasks.confidence import NOT_CALIBRATED, Confidence, iou_of

_TRUTH_COLOUR = (0, 114, 178)


class SheetEvaluator:
    """Writes one sheet: prompt, query, prediction, truth and R of each episode. Yields "pictures", their number."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        image_size: int,
        batch_size: int,
        path: Path | None,
        indices: Sequence[int] | None = None,
        tile: float = 1.0,
        confidence: Confidence = NOT_CALIBRATED,
    ):
        self.tile, self.confidence = tile, confidence
        self.episodes, self.image_size, self.batch_size = episodes, image_size, batch_size
        self.path = path  # None where another process of several writes it
        self.indices = indices  # of the episodes to show; None is all

    def run(self, predict: Predict) -> Iterator[tuple[str, float]]:
        """Evaluates a network."""
        rows, labels = [], []
        shown = predict_episodes(
            predict,
            self.episodes,
            self.image_size,
            self.batch_size,
            tile=self.tile,
            title="pictures",
            indices=self.indices,
        )
        for episode, r in shown:
            if self.path is None:
                continue  # all processes predict, one draws
            mask, score = self.confidence.decide(pseudo_mask.to_logit(r))
            truth = episode.query_mask == 1
            found = f"IoU {100 * iou_of(mask, episode.query_mask):.0f}"
            if not truth.any():
                found = "not there" + ", and found" * bool(mask.any())
            query = magnify(episode.query_image)
            rows.append(
                [
                    overlay(magnify(episode.prompt_images[0]), magnify(episode.prompt_masks[0]) == 1, _TRUTH_COLOUR),
                    query,
                    overlay(query, magnify(mask)),
                    overlay(query, magnify(truth), _TRUTH_COLOUR),
                    to_image(r),
                ]
            )
            labels.append(f"{episode.class_name}: {found}, score {score:.2f}")
        titles = ["prompt and its mask", "query", "prediction", "truth", "rendered mask (R)"]
        if self.path is not None:
            write_png(self.path, contact_sheet(rows, titles, labels))
        yield "pictures", float(len(rows))
