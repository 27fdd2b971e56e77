"""Mean IoU over a fixed list of episodes, and of the baselines that need no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from tqdm import tqdm

from ldis_jax import pseudo_mask
from ldis_jax.evaluators.mean_iou import MeanIoU
from ldis_jax.input_pipeline import Episode, network_arrays, restore_size

Predict = Callable[[dict[str, np.ndarray]], np.ndarray]


def predict_episodes(
    predict: Predict, episodes: Sequence[Episode], image_size: int, batch_size: int, *, title: str = "evaluate"
) -> Iterator[tuple[Episode, np.ndarray]]:
    """Yields (episode, R float32 [H, W, 3] at the query's own size) in order.

    The last batch is filled up by repetition, so that every batch has one shape and nothing compiles twice. A
    thread reads the pictures, a batch ahead of the device.
    """
    starts = range(0, len(episodes), batch_size)

    def load(start: int) -> tuple[list[Episode], dict[str, np.ndarray]]:
        indices = [min(start + i, len(episodes) - 1) for i in range(batch_size)]
        batch = [episodes[i] for i in indices]
        arrays = [network_arrays(episode, image_size) for episode in batch]
        stacked = {name: np.stack([a[name] for a in arrays]) for name in arrays[0]}
        return batch, stacked | {"index": np.array(indices, np.int32)}

    with ThreadPoolExecutor(1) as pool, tqdm(total=len(episodes), desc=title, unit="episode", leave=False) as bar:
        loading = pool.submit(load, 0)
        for start in starts:
            batch, arrays = loading.result()
            if start + batch_size < len(episodes):
                loading = pool.submit(load, start + batch_size)
            decoded = np.asarray(predict(arrays))
            for episode, r in zip(batch[: len(episodes) - start], decoded, strict=False):
                yield episode, restore_size(r, *episode.query_mask.shape)
                bar.update()


class EpisodeEvaluator:
    """Yields "miou" and "fb_iou", in percent."""

    def __init__(self, episodes: Sequence[Episode], image_size: int, batch_size: int, protocol: str = "ldis"):
        self.episodes, self.image_size, self.batch_size = episodes, image_size, batch_size
        self.protocol = protocol

    def run(self, predict: Predict) -> Iterator[tuple[str, float]]:
        """Evaluates a network."""
        metric = MeanIoU(self.protocol)
        for episode, r in predict_episodes(predict, self.episodes, self.image_size, self.batch_size):
            metric.update(pseudo_mask.to_mask(r), episode.query_mask, episode.class_id)
        result = metric.result()
        yield "miou", result["miou"]
        yield "fb_iou", result["fb_iou"]

    def baselines(self) -> dict[str, dict[str, float]]:
        """What costs nothing: the first prompt's mask stretched onto the query, and the whole picture."""
        metrics = {"copy_prompt": MeanIoU(self.protocol), "all_foreground": MeanIoU(self.protocol)}
        for i in range(len(self.episodes)):
            episode = self.episodes[i]
            height, width = episode.query_mask.shape
            prompt = Image.fromarray((episode.prompt_masks[0] == 1).astype(np.uint8))
            copied = np.asarray(prompt.resize((width, height), Image.Resampling.NEAREST)) == 1
            metrics["copy_prompt"].update(copied, episode.query_mask, episode.class_id)
            metrics["all_foreground"].update(np.ones((height, width), bool), episode.query_mask, episode.class_id)
        results = {name: metric.result() for name, metric in metrics.items()}
        return {name: {key: result[key] for key in ("miou", "fb_iou")} for name, result in results.items()}
