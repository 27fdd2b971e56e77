"""Videos: the first frame and its labels are the prompts, every later frame a query (paper section on video)."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.inference.batches import Predict, predict_batches
from ldis_jax.inference.results import ClassSegmentation
from ldis_jax.inference.tiles import Mosaic, Tile
from ldis_jax.input_pipeline import IndexedSource
from ldis_jax.input_pipeline.transforms import crop_prompt, eval_image, eval_mask
from ldis_jax.media.masks import IGNORE_LABEL
from ldis_jax.tasks import pseudo_mask
from ldis_jax.tasks.confidence import NOT_CALIBRATED, Confidence

MIN_FRAMES = 3  # the prompt, and, for DAVIS leaves out the last one, one that counts


class Frame(NamedTuple):
    """A frame and what was predicted: uint8 [H, W, 3], and uint8 [H, W] labels twice."""

    video: str
    time: int
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


class VideoLabels(NamedTuple):
    """A video's labels: uint8 [H, W] as given, and uint8 [T - 1, H, W] of all later frames."""

    first: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray


_Row = tuple[Frame, list[int], Mosaic, Tile]  # a frame, the labels to look for, and a tile for one of them


def segment_frames(
    predict: Predict,
    source: IndexedSource,
    frames: Iterable[tuple[str, int]],
    image_size: int,
    batch_size: int,
    tile: float = 1.0,
    confidence: Confidence = NOT_CALIBRATED,
) -> Iterator[Frame]:
    """Predicts the labels of frames, from the first of their video.

    Several labels are predicted one by one and joined by eq. 7. A label that the first frame does not show cannot be
    predicted. No more images than three batches' are in memory.

    Args:
        predict: as evaluators take it.
        source: the videos.
        frames: (video, number of the frame from 1 on), those of a video in a row. Frames of a video whose first frame
            shows no object are left out of what comes back.
        image_size: S.
        batch_size: queries at a time; a query is a frame, or a tile of it, and a label.
        tile: of the task.
        confidence: says which objects have left.

    Raises:
        LDISError: a frame of another size than the first.
    """

    @functools.lru_cache(maxsize=4)  # threads may be at two videos at a time
    def prompt_of(video: str) -> tuple[dict[int, dict[str, np.ndarray]], tuple[int, ...]]:
        """The first frame as the network takes it, by label; and its size."""
        image, labels = source.frame(video, 0)
        return prompts_of(image, labels, image_size, tile), labels.shape

    def load(place: tuple[str, int]) -> Iterator[tuple[_Row, dict[str, np.ndarray]]]:
        """The tiles of a query a label: the frame, nothing predicted yet, with all labels to look for in it."""
        video, time = place
        prompts, shape = prompt_of(video)
        if not prompts:
            return iter(())
        image, truth = source.frame(video, time)
        if truth.shape != shape:
            raise LDISError(f"video {video!r}: frame {time} differs in size from the first {shape}")
        frame = Frame(video, time, image, truth, np.zeros_like(truth))
        first_index = (time - 1) * len(prompts)  # of a query in its video, wherever the evaluation began
        mosaics = [(Mosaic(image, image_size, tile), prompt) for prompt in prompts.values()]
        return (
            (
                (frame, list(prompts), mosaic, part),
                {"query_image": mosaic.square(part), "index": np.array(first_index + i, np.int32), **prompt},
            )
            for i, (mosaic, prompt) in enumerate(mosaics)
            for part in mosaic.tiles
        )

    logits: list[np.ndarray] = []  # of the current frame, one a label
    for (frame, labels, mosaic, part), r in predict_batches(predict, frames, load, batch_size):
        if (whole := mosaic.add(part, r)) is None:
            continue
        logits.append(pseudo_mask.to_logit(whole))
        if len(logits) == len(labels):
            lookup = np.array([0, *labels], np.uint8)
            found = ClassSegmentation.of_logits(np.stack(logits), map(str, labels), confidence)
            yield frame._replace(predicted=lookup[found.label_map])
            logits.clear()


def segment_videos(
    predict: Predict,
    source: IndexedSource,
    videos: Sequence[str],
    image_size: int,
    batch_size: int,
    tile: float = 1.0,
    confidence: Confidence = NOT_CALIBRATED,
) -> Iterator[tuple[str, VideoLabels | None]]:
    """Yields each video with its labels, or with None where it has fewer than 3 frames or no object in the first one.

    Batches go on from one video to the next; see :func:`segment_frames` for the arguments.
    """
    lengths = source.videos
    frames = ((v, t) for v in videos if lengths[v] >= MIN_FRAMES for t in range(1, lengths[v]))
    done = segment_frames(predict, source, frames, image_size, batch_size, tile, confidence)
    by_video = itertools.groupby(done, key=lambda frame: frame.video)
    found, group = next(by_video, (None, iter(())))
    for video in videos:
        if video != found:
            yield video, None
            continue
        predicted, truth = zip(*((frame.predicted, frame.truth) for frame in group), strict=True)
        yield video, VideoLabels(source.frame(video, 0)[1], np.stack(predicted), np.stack(truth))
        found, group = next(by_video, (None, iter(())))


def prompts_of(
    image: np.ndarray, labels: np.ndarray, image_size: int, tile: float = 1.0
) -> dict[int, dict[str, np.ndarray]]:
    """A prompt, "prompt_images" and "prompt_masks" as of an episode, of every label that is still seen at S pixels."""
    found = {}
    for label in map(int, np.unique(labels)):
        if label not in (0, IGNORE_LABEL):
            mask = np.where(labels == IGNORE_LABEL, IGNORE_LABEL, labels == label).astype(np.uint8)
            part, mask = crop_prompt(image, mask, tile)
            square = eval_mask(mask, image_size)
            if (square == 1).any():
                found[label] = {
                    "prompt_images": eval_image(part, image_size)[None],
                    "prompt_masks": square[None],
                }
    return found


def videos_hash(source: IndexedSource) -> str:
    """16 hex digits over names and lengths of the videos, in order."""
    text = json.dumps(list(source.videos.items()), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
