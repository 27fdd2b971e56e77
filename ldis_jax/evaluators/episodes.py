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

    The last batch is filled up by repetition, so that every batch has one shape and nothing compiles twice. A
    thread reads the pictures, a batch ahead of the device. An episode's result does not depend on which others run.
    """
    chosen = range(len(episodes)) if indices is None else indices
    starts = range(0, len(chosen), batch_size)

    def load(start: int) -> tuple[list[Episode], dict[str, np.ndarray]]:
        batch_indices = [chosen[min(start + i, len(chosen) - 1)] for i in range(batch_size)]
        batch = [episodes[i] for i in batch_indices]
        arrays = [network_arrays(episode, image_size) for episode in batch]
        stacked = {name: np.stack([a[name] for a in arrays]) for name in arrays[0]}
        return batch, stacked | {"index": np.array(batch_indices, np.int32)}

    with ThreadPoolExecutor(1) as pool, tqdm(total=len(chosen), desc=title, unit="episode", leave=False) as bar:
        loading = pool.submit(load, 0) if starts else None
        for start in starts:
            assert loading is not None
            batch, arrays = loading.result()
            if start + batch_size < len(chosen):
                loading = pool.submit(load, start + batch_size)
            decoded = np.asarray(predict(arrays))
            for episode, r in zip(batch[: len(chosen) - start], decoded, strict=False):
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
        """The same figures of :func:`baseline_masks`."""
        metrics = {name: MeanIoU(self.protocol) for name in BASELINES}
        for i in range(len(self.episodes)):
            episode = self.episodes[i]
            for name, mask in baseline_masks(episode).items():
                metrics[name].update(mask, episode.query_mask, episode.class_id)
        results = {name: metric.result() for name, metric in metrics.items()}
        return {name: {key: result[key] for key in ("miou", "fb_iou")} for name, result in results.items()}
