"""Runs one benchmark on one model: records, report, page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ldis_jax import pseudo_mask
from ldis_jax.benchmark.intervals import image_figures
from ldis_jax.benchmark.protocols import Protocol
from ldis_jax.benchmark.records import Records
from ldis_jax.benchmark.report import strip, write_page, write_video_page
from ldis_jax.benchmark.videos import MEASURES, MIN_FRAMES, VideoSource, objects_of, segment_video, videos_hash
from ldis_jax.errors import LDISError
from ldis_jax.evaluators.episodes import BASELINES, Predict, baseline_masks, predict_episodes
from ldis_jax.evaluators.mean_iou import episode_areas
from ldis_jax.files import write_json
from ldis_jax.image_io import write_png
from ldis_jax.input_pipeline import FrozenEpisodes


def evaluate_images(
    protocol: Protocol,
    episodes: FrozenEpisodes,
    facts: Mapping[str, Any],
    predict: Predict,
    image_size: int,
    batch_size: int,
    out: Path,
) -> dict[str, Any]:
    """Evaluates all episodes that ``out`` has no record of yet, then writes report and page.

    Args:
        protocol: what is measured.
        episodes: of the protocol, on the data at hand.
        facts: of the model, for the report: "model", "model_hash", "task", "settings", "domain", "software".
        predict: as evaluators take it.
        image_size: S.
        batch_size: over all devices.
        out: JSON report; beside it come ``.records.jsonl``, ``.md`` and a folder of pictures.

    Returns:
        The content of ``out``.
    """
    header = {key: facts[key] for key in ("model_hash", "task", "settings")}
    header |= {"benchmark": protocol.name, "episodes_hash": episodes.hash}
    with Records(out.with_suffix(".records.jsonl"), header) as records:
        rest = range(len(records), len(episodes))
        predictions = predict_episodes(predict, episodes, image_size, batch_size, title=protocol.name, indices=rest)
        for episode, r in predictions:
            masks = {"areas": pseudo_mask.to_mask(r), **baseline_masks(episode)}
            areas = {name: episode_areas(mask, episode.query_mask).tolist() for name, mask in masks.items()}
            records.append({"class_id": episode.class_id, "class_name": episode.class_name, **areas})
        measured = records.records
    report = _report(protocol, episodes, facts, measured)
    write_json(out, report)
    write_page(out.with_suffix(".md"), report, measured, episodes, predict, image_size, batch_size)
    return report


def _report(
    protocol: Protocol, episodes: FrozenEpisodes, facts: Mapping[str, Any], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    names = {record["class_id"]: record["class_name"] for record in records}

    def figures(key: str) -> dict[str, Any]:
        chosen = [{"class_id": record["class_id"], "areas": record[key]} for record in records]
        found = image_figures(chosen, protocol.accumulation)
        return found | {"iou_per_class": {names[c]: value for c, value in found["iou_per_class"].items()}}

    return {
        "benchmark": protocol.name,
        **facts,
        **figures("areas"),
        "baselines": {name: figures(name) for name in BASELINES},
        "episodes": len(episodes),
        "episodes_hash": episodes.hash,
        "num_shots": protocol.num_shots,
        "accumulation": protocol.accumulation,
    }


def evaluate_videos(
    protocol: Protocol,
    source: VideoSource,
    facts: Mapping[str, Any],
    predict: Predict,
    image_size: int,
    batch_size: int,
    out: Path,
) -> dict[str, Any]:
    """As :func:`evaluate_images`, of videos whose first frame is the prompt; the baseline repeats its labels.

    Videos without an object in the first frame are left out and named in the report.
    """
    measure = MEASURES[protocol.kind]
    digest = videos_hash(source)
    header = {key: facts[key] for key in ("model_hash", "task", "settings")}
    header |= {"benchmark": protocol.name, "videos_hash": digest}
    pictures = out.with_suffix("")
    with Records(out.with_suffix(".records.jsonl"), header) as records:
        rest = list(source.videos)[len(records) :]
        for video in tqdm(rest, protocol.name, unit="video", leave=False):
            first = source.frame(video, 0)[1]
            if source.videos[video] < MIN_FRAMES or not objects_of(first, image_size):
                records.append({"video": video, "left_out": True})
                continue
            predicted, truth = segment_video(predict, source, video, image_size, batch_size)
            write_png(pictures / f"{len(records):04d}.png", strip(source, video, predicted, truth))
            repeated = np.broadcast_to(first, truth.shape)
            records.append(
                {
                    "video": video,
                    "model": measure.record(video, predicted, truth),
                    "repeat_first": measure.record(video, repeated, truth),
                }
            )
        every = records.records
    measured = [record for record in every if "model" in record]
    if not measured:
        raise LDISError(f"{protocol.name}: no video of {MIN_FRAMES} frames shows an object in its first frame")
    report = {
        "benchmark": protocol.name,
        **facts,
        **measure.figures([record["model"] for record in measured]),
        "baselines": {"repeat_first": measure.figures([record["repeat_first"] for record in measured])},
        "videos": len(measured),
        "left_out": [record["video"] for record in every if "model" not in record],
        "videos_hash": digest,
    }
    write_json(out, report)
    write_video_page(out.with_suffix(".md"), report, {record["video"]: i for i, record in enumerate(every)})
    return report
