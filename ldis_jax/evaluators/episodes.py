"""Mean IoU over a fixed list of episodes, and of the baselines that need no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from ldis_jax.evaluators.mean_iou import MeanIoU
from ldis_jax.inference.batches import Predict, predict_batches
from ldis_jax.input_pipeline import Episode, network_arrays, restore_size
from ldis_jax.tasks import pseudo_mask

BASELINES = ("copy_prompt", "all_foreground")


def predict_episodes(
    predict: Predict,
    episodes: Sequence[Episode],
    image_size: int,
    batch_size: int,
    *,
    title: str = "evaluate",
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[Episode, np.ndarray]]:
    """Yields (episode, R float32 [H, W, 3] at the query's own size), of all episodes or of ``indices``, in order.

    An episode's result does not depend on which others run; see also :func:`predict_batches`.
    """
    chosen = range(len(episodes)) if indices is None else indices

    def load(index: int) -> list[tuple[Episode, dict[str, np.ndarray]]]:
        episode = episodes[index]
        return [(episode, network_arrays(episode, image_size) | {"index": np.array(index, np.int32)})]

    with tqdm(total=len(chosen), desc=title, unit="episode", leave=False) as bar:
        for episode, r in predict_batches(predict, chosen, load, batch_size):
            yield episode, restore_size(r, *episode.query_mask.shape)
            bar.update()


def baseline_masks(episode: Episode) -> dict[str, np.ndarray]:
    """What costs nothing: the first prompt's mask stretched onto the query, and the whole picture. bool [H, W] each."""
    height, width = episode.query_mask.shape
    prompt = Image.fromarray((episode.prompt_masks[0] == 1).astype(np.uint8))
    copied = np.asarray(prompt.resize((width, height), Image.Resampling.NEAREST)) == 1
    return dict(zip(BASELINES, (copied, np.ones((height, width), bool)), strict=True))


class EpisodeEvaluator:
    """Yields "miou" and "fb_iou", in percent."""

    def __init__(self, episodes: Sequence[Episode], image_size: int, batch_size: int, protocol: str = "ldis"):
        self.episodes, self.image_size, self.batch_size = episodes, image_size, batch_size
        self.protocol = MeanIoU(protocol).protocol  # which checks it, before the networks run

    def run(self, predict: Predict) -> Iterator[tuple[str, float]]:
        """Evaluates a network."""
        metric = MeanIoU(self.protocol)
        for episode, r in predict_episodes(predict, self.episodes, self.image_size, self.batch_size):
            metric.update(pseudo_mask.to_mask(r), episode.query_mask, episode.class_id)
        result = metric.result()
        yield "miou", result["miou"]
        yield "fb_iou", result["fb_iou"]

    def baselines(self) -> dict[str, dict[str, float]]:
        """The same figures of :func:`baseline_masks`."""
        metrics = {name: MeanIoU(self.protocol) for name in BASELINES}
        for i in range(len(self.episodes)):
            episode = self.episodes[i]
            for name, mask in baseline_masks(episode).items():
                metrics[name].update(mask, episode.query_mask, episode.class_id)
        results = {name: metric.result() for name, metric in metrics.items()}
        return {name: {key: result[key] for key in ("miou", "fb_iou")} for name, result in results.items()}
