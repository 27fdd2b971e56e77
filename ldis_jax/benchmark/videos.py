"""Videos: the first frame and its labels are the prompts, every later frame a query (paper section on video)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ldis_jax import pseudo_mask
from ldis_jax.benchmark.intervals import interval, resamples
from ldis_jax.errors import LDISError
from ldis_jax.evaluators import DavisMetrics, VSPWMetrics
from ldis_jax.evaluators.episodes import Predict
from ldis_jax.image_io import IGNORE_LABEL
from ldis_jax.input_pipeline.transforms import eval_image, eval_mask, restore_size
from ldis_jax.results import class_probabilities

# Rules of VC_n: our own first, then the public code's, so that a figure can be compared with published ones.
VC_RULES = ("all_windows", "vspw_code")
_VC_SIZES = (8, 16)
MIN_FRAMES = 3  # the prompt, and, for DAVIS leaves out the last one, one that counts
_LABELS = 256


class VideoSource(Protocol):
    """A data set of videos with a label map for every frame."""

    @property
    def videos(self) -> Mapping[str, int]:
        """Name -> number of frames."""

    def frame(self, video: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [H, W, 3] picture, uint8 [H, W] labels, 0 background and 255 void)."""


def segment_video(
    predict: Predict, source: VideoSource, video: str, image_size: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true labels of every frame but the first, which is given.

    Several labels are predicted one by one and joined by eq. 7. A label that the first frame does not show cannot be
    predicted and counts as wrong.

    Args:
        predict: as evaluators take it.
        source: the videos.
        video: one of them.
        image_size: S.
        batch_size: queries at a time; a query is a frame and a label.

    Returns:
        (uint8 [T - 1, H, W], uint8 [T - 1, H, W]).

    Raises:
        LDISError: a video of fewer than 3 frames, frames of several sizes, or a first frame without an object.
    """
    image, first = source.frame(video, 0)
    masks = objects_of(first, image_size)
    labels = list(masks)
    if source.videos[video] < MIN_FRAMES or not labels:
        raise LDISError(f"video {video!r}: too short, or no object in its first frame; leave it out")
    lookup = np.array([0, *labels], np.uint8)
    frames = [source.frame(video, t) for t in range(1, source.videos[video])]
    if wrong := [t for t, (_, truth) in enumerate(frames, 1) if truth.shape != first.shape]:
        raise LDISError(f"video {video!r}: frame {wrong[0]} differs in size from the first {first.shape}")
    queries = [(picture, label) for picture, _ in frames for label in labels]
    logits: list[np.ndarray] = []  # of the current frame, one a label
    predicted = []
    for r in _residuals(predict, queries, eval_image(image, image_size), masks, image_size, batch_size):
        logits.append(pseudo_mask.to_logit(restore_size(r, *first.shape)))
        if len(logits) == len(labels):
            predicted.append(lookup[class_probabilities(np.stack(logits)).argmax(0)])
            logits.clear()
    return np.stack(predicted), np.stack([truth for _, truth in frames])


def objects_of(labels: np.ndarray, image_size: int) -> dict[int, np.ndarray]:
    """A prompt mask uint8 [S, S] in {0, 1, 255} of every label that can still be seen at S pixels."""
    found = {}
    for label in map(int, np.unique(labels)):
        if label not in (0, IGNORE_LABEL):
            mask = np.where(labels == IGNORE_LABEL, IGNORE_LABEL, labels == label).astype(np.uint8)
            found[label] = eval_mask(mask, image_size)
    return {label: mask for label, mask in found.items() if (mask == 1).any()}


def videos_hash(source: VideoSource) -> str:
    """16 hex digits over names and lengths of the videos, in order."""
    text = json.dumps(list(source.videos.items()), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _residuals(
    predict: Predict,
    queries: Sequence[tuple[np.ndarray, int]],
    prompt: np.ndarray,
    masks: Mapping[int, np.ndarray],
    image_size: int,
    batch_size: int,
) -> Iterator[np.ndarray]:
    """R of every (picture, label); the last batch is filled up by repetition, so that nothing compiles twice."""
    for start in range(0, len(queries), batch_size):
        batch = [queries[min(start + i, len(queries) - 1)] for i in range(batch_size)]
        arrays = {
            "query_image": np.stack([eval_image(picture, image_size) for picture, _ in batch]),
            "prompt_images": np.broadcast_to(prompt, (batch_size, 1, *prompt.shape)),
            "prompt_masks": np.stack([masks[label][None] for _, label in batch]),
            "index": np.arange(start, start + batch_size, dtype=np.int32),
        }
        yield from np.asarray(predict(arrays))[: len(queries) - start]


class ObjectVideos:
    """DAVIS's J and F of one object a video: records, and figures from them."""

    @staticmethod
    def record(video: str, predicted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
        """Measures one video, all frames but the first; DAVIS leaves out the last one too."""
        metrics = DavisMetrics(leave_out_ends=False)
        metrics.update(video, (predicted == 1)[:-1], (truth == 1)[:-1])
        return {"video": video, **metrics.result()["per_sequence"][video]}

    @staticmethod
    def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means over videos in percent, with 95 % intervals from resampled videos."""
        names = [key for key in records[0] if key != "video"]
        values = np.array([[record[name] for name in names] for record in records])
        resampled = resamples(len(records)) @ values / len(records)
        figures = {name: float(value) for name, value in zip(names, values.mean(0), strict=True)}
        intervals = {f"{name}_interval": interval(resampled[:, i], len(records)) for i, name in enumerate(names)}
        return figures | intervals | {"per_video": {r["video"]: {n: r[n] for n in names} for r in records}}


class SemanticVideos:
    """VSPW's mIoU and VC_n of label maps: records, and figures from them."""

    @staticmethod
    def record(video: str, predicted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
        """Measures one video, all frames but the first. VSPW marks void by 0 as well as by 255."""
        truth = np.where(truth == 0, IGNORE_LABEL, truth)
        record: dict[str, Any] = {"video": video}
        for rules in VC_RULES:
            metrics = VSPWMetrics(_VC_SIZES, rules=rules)
            metrics.update(video, predicted, truth)
            record[rules] = metrics.state()
        return record

    @staticmethod
    def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Mean IoU and VC_n over all videos in percent, with 95 % intervals from resampled videos."""
        merged = {rules: VSPWMetrics(_VC_SIZES, rules=rules) for rules in VC_RULES}
        for record in records:
            for rules, metrics in merged.items():
                metrics.add_state(record[rules])
        ours, public = (merged[rules].result() for rules in VC_RULES)
        figures = ours | {f"vc{n}_vspw_code": public[f"vc{n}"] for n in _VC_SIZES}
        return figures | _semantic_intervals([record[VC_RULES[0]] for record in records])


def _semantic_intervals(states: Sequence[Mapping[str, Any]]) -> dict[str, list[float] | None]:
    """95 % intervals of mIoU and VC_n from resampled videos, of :meth:`VSPWMetrics.state` a video."""
    areas = np.zeros((len(states), 3, _LABELS))  # a video's intersection, true area, predicted area by label
    for v, state in enumerate(states):
        for true, predicted, count in state["confusion"]:
            if true != IGNORE_LABEL:
                areas[v, 0, true] += count * (true == predicted)
                areas[v, 1, true] += count
                areas[v, 2, predicted] += count
    draws = resamples(len(states))
    inter, true_area, predicted_area = np.einsum("bv,val->abl", draws, areas)
    present = true_area > 0
    iou = np.where(present, inter / np.maximum(true_area + predicted_area - inter, 1), 0)
    intervals = {"miou_interval": interval(100 * iou.sum(-1) / np.maximum(present.sum(-1), 1), len(states))}
    for i, n in enumerate(_VC_SIZES):
        shares = [next(iter(state["shares"].values()))[i] for state in states]
        totals, counts = draws @ [sum(s) for s in shares], draws @ [len(s) for s in shares]
        intervals[f"vc{n}_interval"] = interval(100 * totals / np.maximum(counts, 1), len(states))
    return intervals


MEASURES: dict[str, type[ObjectVideos] | type[SemanticVideos]] = {"objects": ObjectVideos, "semantic": SemanticVideos}
