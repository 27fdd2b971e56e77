"""Mean IoU over a fixed list of episodes, and of the baselines that need no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from ldis_jax.evaluators.absence import Scored, absence_figures, columns
from ldis_jax.evaluators.mean_iou import MeanIoU
from ldis_jax.inference.batches import Predict, predict_batches
from ldis_jax.inference.tiles import Mosaic, Tile
from ldis_jax.input_pipeline import Episode, eval_mask, prompt_arrays
from ldis_jax.tasks import pseudo_mask
from ldis_jax.tasks.confidence import NOT_CALIBRATED, Confidence, Measured, iou_of, measure

BASELINES = ("copy_prompt", "all_foreground")


def predict_episodes(
    predict: Predict,
    episodes: Sequence[Episode],
    image_size: int,
    batch_size: int,
    *,
    tile: float = 1.0,
    title: str = "evaluate",
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[Episode, np.ndarray]]:
    """Yields (episode, R float32 [H, W, 3] at the query's own size), of all episodes or of ``indices``, in order.

    An episode's result does not depend on which others run; see also :func:`predict_batches`. ``tile`` is the task's.
    """
    chosen = range(len(episodes)) if indices is None else indices

    def load(index: int) -> Iterator[tuple[tuple[Episode, Mosaic, Tile], dict[str, np.ndarray]]]:
        episode = episodes[index]
        mosaic = Mosaic(episode.query_image, image_size, tile)
        shared = prompt_arrays(episode, image_size, tile) | {"index": np.array(index, np.int32)}
        truth = episode.query_mask[..., None]
        return (
            (
                (episode, mosaic, part),
                shared
                | {
                    "query_image": mosaic.square(part),
                    "query_mask": eval_mask(part.cut(truth)[..., 0], image_size),
                },
            )
            for part in mosaic.tiles
        )

    with tqdm(total=len(chosen), desc=title, unit="episode", leave=False) as bar:
        for (episode, mosaic, part), r in predict_batches(predict, chosen, load, batch_size):
            if (whole := mosaic.add(part, r)) is not None:
                yield episode, whole
                bar.update()


def baseline_masks(episode: Episode) -> dict[str, np.ndarray]:
    """Baselines without a network, bool [H, W]: the first prompt's mask stretched onto the query; the whole image."""
    height, width = episode.query_mask.shape
    prompt = Image.fromarray((episode.prompt_masks[0] == 1).astype(np.uint8))
    copied = np.asarray(prompt.resize((width, height), Image.Resampling.NEAREST)) == 1
    return dict(zip(BASELINES, (copied, np.ones((height, width), bool)), strict=True))


class EpisodeEvaluator:
    """Yields "miou" and "fb_iou", in percent, of episodes that show what is prompted.

    Where others do not, it yields the figures of :func:`~ldis_jax.evaluators.absence.absence_figures`, too.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        image_size: int,
        batch_size: int,
        protocol: str = "ldis",
        tile: float = 1.0,
    ):
        self.episodes, self.image_size, self.batch_size, self.tile = episodes, image_size, batch_size, tile
        self.protocol = MeanIoU(protocol).protocol  # which checks it, before the networks run

    def run(
        self, predict: Predict, confidence: Confidence = NOT_CALIBRATED, measured: list[Measured] | None = None
    ) -> Iterator[tuple[str, float]]:
        """Evaluates a network; masks of objects that ``confidence`` calls absent are empty.

        ``measured``, where it is given, gets what :meth:`Confidence.fit` takes.
        """
        metric, scored = MeanIoU(self.protocol), []
        for episode, r in predict_episodes(predict, self.episodes, self.image_size, self.batch_size, tile=self.tile):
            logits = pseudo_mask.to_logit(r)
            mask, score = confidence.decide(logits)
            absent = is_absent(episode)
            scored.append(Scored(score, iou_of(logits > 0, episode.query_mask), float(mask.mean()), absent))
            if measured is not None:
                measured.append(measure(logits, episode.query_mask))
            if not absent:
                metric.update(mask, episode.query_mask, episode.class_id)
        if not all(episode.absent for episode in scored):
            yield from _figures(metric).items()
        if any(episode.absent for episode in scored):
            yield from absence_figures(*columns(scored)).items()

    def baselines(self) -> dict[str, dict[str, float]]:
        """The figures "miou" and "fb_iou" of :func:`baseline_masks`; none where every object is absent."""
        metrics, present = {name: MeanIoU(self.protocol) for name in BASELINES}, False
        for i in range(len(self.episodes)):
            episode = self.episodes[i]
            if not is_absent(episode):
                present = True
                for name, mask in baseline_masks(episode).items():
                    metrics[name].update(mask, episode.query_mask, episode.class_id)
        return {name: _figures(metric) if present else {} for name, metric in metrics.items()}


def is_absent(episode: Episode) -> bool:
    """True if the query does not show what is prompted."""
    return not (episode.query_mask == 1).any()


def _figures(metric: MeanIoU) -> dict[str, float]:
    result = metric.result()
    return {key: result[key] for key in ("miou", "fb_iou")}
