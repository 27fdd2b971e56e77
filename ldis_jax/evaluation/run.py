"""Runs one benchmark on one model: records, report, page. On several hosts every process calls the same function."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Required

import numpy as np
from pydantic import Field
from tqdm import tqdm
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.errors import LDISError
from ldis_jax.evaluation import hosts
from ldis_jax.evaluation.intervals import image_figures, mean_of_folds, miou_gain, score_figures
from ldis_jax.evaluation.protocols import Protocol, domain
from ldis_jax.evaluation.records import Records
from ldis_jax.evaluation.report import Subject, write_curve_page, write_folds_page, write_page, write_video_page
from ldis_jax.evaluation.video_benchmark import MIN_FRAMES, VideoLabels, segment_videos, videos_hash
from ldis_jax.evaluation.video_measures import MEASURES
from ldis_jax.evaluators.absence import Scored
from ldis_jax.evaluators.episodes import BASELINES, baseline_masks, is_absent, predict_episodes
from ldis_jax.evaluators.mean_iou import episode_areas
from ldis_jax.inference.batches import map_ahead
from ldis_jax.input_pipeline import Episode, FrozenEpisodes, IndexedSource, episodes_hash
from ldis_jax.support.files import write_json
from ldis_jax.tasks import pseudo_mask
from ldis_jax.tasks.confidence import iou_of

# What a process measures before the processes meet and the records are written: meeting waits for the device.
_MEET_BATCHES, _MEET_VIDEOS = 8, 2


_Pair = Field(min_length=2, max_length=2)
_Areas = Annotated[list[Annotated[list[int], _Pair]], _Pair]


class _ImageRecord(TypedDict):
    class_id: int
    class_name: str
    areas: _Areas
    copy_prompt: _Areas
    all_foreground: _Areas
    score: float
    iou: float
    covered: float
    absent: bool


class _VideoRecord(TypedDict, total=False):
    video: Required[str]
    left_out: bool
    model: dict[str, Any]
    repeat_first: dict[str, Any]


def evaluate_images(protocol: Protocol, episodes: FrozenEpisodes, subject: Subject, out: Path) -> dict[str, Any]:
    """Evaluates all episodes that ``out`` has no record of yet, then writes report and page.

    Args:
        protocol: what is measured.
        episodes: of the protocol, on the data at hand.
        subject: the model.
        out: JSON report; beside it come ``.records.jsonl``, ``.md`` and a folder of images.

    Returns:
        The content of ``out``.
    """
    records = _measure_episodes(protocol, [episodes], {"episodes_hash": episodes.hash}, subject, out)

    def finish() -> dict[str, Any]:
        figures = _figures(records, "areas", protocol)
        report = _image_report(protocol, subject, figures, records, episodes, protocol.num_shots)
        write_json(out, report)
        write_page(beside(out, ".md"), report, records, episodes, subject)
        return report

    return hosts.on_lead(finish)


def evaluate_curve(
    protocol: Protocol, curve: Mapping[int, FrozenEpisodes], subject: Subject, out: Path
) -> dict[str, Any]:
    """Runs :func:`evaluate_images` for every number of prompts K of ``curve``, on the same queries.

    The report's "k_shot_curve" has the figures for each K, and "gain", the mIoU over that of the first K.
    """
    shots, sets = list(curve), list(curve.values())
    hashes = {str(k): episodes.hash for k, episodes in curve.items()}
    records = _measure_episodes(protocol, sets, {"episodes_hashes": hashes}, subject, out)

    def finish() -> dict[str, Any]:
        count = len(sets[0])
        parts = [records[i * count : (i + 1) * count] for i in range(len(sets))]
        points = [
            {
                "num_shots": k,
                **_figures(part, "areas", protocol),
                **miou_gain(parts[0], part, protocol.accumulation),
                "episodes_hash": digest,
            }
            for k, part, digest in zip(shots, parts, hashes.values(), strict=True)
        ]
        report = _image_report(protocol, subject, {"k_shot_curve": points}, parts[0], sets[-1], shots)
        write_json(out, report)
        write_curve_page(beside(out, ".md"), report)
        return report

    return hosts.on_lead(finish)


def evaluate_folds(
    whole: Protocol, folds: Mapping[Protocol, FrozenEpisodes], subject: Subject, out: Path
) -> dict[str, Any]:
    """Runs :func:`evaluate_images` for every fold; ``whole`` stands for all of them.

    The report's figures are means over the folds, and "folds" has those of each.
    """
    sets = list(folds.values())
    hashes = {fold.name: episodes.hash for fold, episodes in folds.items()}
    records = _measure_episodes(whole, sets, {"episodes_hashes": hashes}, subject, out)

    def finish() -> dict[str, Any]:
        count = len(sets[0])
        parts = [records[i * count : (i + 1) * count] for i in range(len(sets))]

        def mean(key: str) -> dict[str, Any]:
            by_fold = [[{**record, "areas": record[key]} for record in part] for part in parts]
            iou = [_figures(part, key, whole)["iou_per_class"] for part in parts]
            by_class = {name: value for found in iou for name, value in found.items()}
            return mean_of_folds(by_fold, whole.accumulation) | {"iou_per_class": by_class}

        report = {
            "benchmark": whole.name,
            **subject.facts,
            **mean("areas"),
            "baselines": {name: mean(name) for name in BASELINES},
            "folds": [
                {
                    "benchmark": fold.name,
                    "domain": domain(subject.training_sets, fold.data, fold.classes),
                    **_figures(part, "areas", fold),
                    "baselines": {name: _figures(part, name, fold) for name in BASELINES},
                    "episodes": len(episodes),
                    "episodes_hash": episodes.hash,
                }
                for (fold, episodes), part in zip(folds.items(), parts, strict=True)
            ],
            "episodes": len(records),
            "episodes_hash": episodes_hash([record for episodes in sets for record in episodes.records]),
            "num_shots": whole.num_shots,
            "accumulation": whole.accumulation,
        }
        write_json(out, report)
        write_folds_page(beside(out, ".md"), report)
        return report

    return hosts.on_lead(finish)


def evaluate_videos(protocol: Protocol, source: IndexedSource, subject: Subject, out: Path) -> dict[str, Any]:
    """Evaluates videos whose first frame is the prompt; the baseline repeats its labels.

    Videos without an object in the first frame are left out and named in the report.
    """
    measure, names, digest = MEASURES[protocol.kind], list(source.videos), videos_hash(source)

    def record(measured: tuple[str, VideoLabels | None]) -> dict[str, Any]:
        video, labels = measured
        if labels is None:
            return {"video": video, "left_out": True}
        repeated = labels._replace(predicted=np.broadcast_to(labels.first, labels.truth.shape))
        return {"video": video, "model": measure.record(video, labels), "repeat_first": measure.record(video, repeated)}

    def make(rest: Sequence[int]) -> Iterator[dict[str, Any]]:
        videos = [names[i] for i in rest]
        found = segment_videos(
            subject.predict, source, videos, subject.image_size, subject.batch_size, subject.tile, subject.confidence
        )
        return map_ahead(record, tqdm(found, protocol.name, len(rest), unit="video", leave=False), 1, threads=1)

    records = _measure(protocol, {"videos_hash": digest}, subject, out, len(names), make, _MEET_VIDEOS, _VideoRecord)

    def finish() -> dict[str, Any]:
        measured = [record for record in records if "model" in record]
        if not measured:
            raise LDISError(
                f"{protocol.name}: no video of {MIN_FRAMES} frames shows an object in its first frame; is --data the "
                "data set of that name?"
            )
        figures = {who: measure.figures([record[who] for record in measured]) for who in ("model", "repeat_first")}
        for values in figures.values():
            if "iou_per_class" in values:
                known = dict(enumerate(source.class_names))
                by_label = values["iou_per_class"].items()
                values["iou_per_class"] = {known.get(c, f"class {c}"): value for c, value in by_label}
        report = {
            "benchmark": protocol.name,
            **subject.facts,
            **figures["model"],
            "baselines": {"repeat_first": figures["repeat_first"]},
            "notes": [
                f"{name} has no value: no window of that many frames in which a true label stays"
                for name, value in figures["model"].items()
                if value is None and not name.endswith("_interval")
            ],
            "videos": len(measured),
            "left_out": [record["video"] for record in records if "model" not in record],
            "videos_hash": digest,
        }
        write_json(out, report)
        write_video_page(beside(out, ".md"), report, measure.RANKED_BY, source, subject)
        return report

    return hosts.on_lead(finish)


def beside(out: Path, ending: str) -> Path:
    """A file that belongs to a report: of its name without .json; other names are kept whole, so that none is lost."""
    return out.with_name((out.stem if out.suffix == ".json" else f"{out.name}-page") + ending)


def _measure_episodes(
    protocol: Protocol, sets: Sequence[FrozenEpisodes], hashes: Mapping[str, Any], subject: Subject, out: Path
) -> list[dict[str, Any]]:
    """Records of sets of one length, one after the other: areas of the model and of the baselines."""
    count = len(sets[0])

    def record(measured: tuple[Episode, np.ndarray]) -> dict[str, Any]:
        episode, r = measured
        logits = pseudo_mask.to_logit(r)
        mask, score = subject.confidence.decide(logits)
        masks = {"areas": mask, **baseline_masks(episode)}
        areas = {name: episode_areas(mask, episode.query_mask).tolist() for name, mask in masks.items()}
        scored = Scored(score, iou_of(logits > 0, episode.query_mask), float(mask.mean()), is_absent(episode))
        return {"class_id": episode.class_id, "class_name": episode.class_name, **areas, **scored._asdict()}

    def make(rest: Sequence[int]) -> Iterator[dict[str, Any]]:
        for k, episodes in enumerate(sets):
            if indices := [i - k * count for i in rest if i // count == k]:
                title = f"{protocol.name}, {k + 1} of {len(sets)}" if len(sets) > 1 else protocol.name
                found = predict_episodes(
                    subject.predict,
                    episodes,
                    subject.image_size,
                    subject.batch_size,
                    tile=subject.tile,
                    title=title,
                    indices=indices,
                )
                yield from map_ahead(record, found, subject.batch_size)

    meet_every = _MEET_BATCHES * subject.batch_size
    return _measure(protocol, hashes, subject, out, len(sets) * count, make, meet_every, _ImageRecord)


def _measure(
    protocol: Protocol,
    hashes: Mapping[str, Any],
    subject: Subject,
    out: Path,
    count: int,
    make: Callable[[Sequence[int]], Iterator[dict[str, Any]]],
    meet_every: int,
    kind: Any,
) -> list[dict[str, Any]]:
    """Records of all items, on process 0: those there are beside ``out``, and of the rest each as soon as it is made.

    ``make`` gives some of ``range(count)`` a record each, in order; ``meet_every`` is of :func:`hosts.in_order`,
    ``kind`` of :class:`Records`.
    """
    # What records must agree on to be continued; "format" is that of the records themselves.
    header = {
        key: subject.facts[key] for key in ("model_hash", "task", "settings", "data_hash") if key in subject.facts
    }
    header |= {"benchmark": protocol.name, "format": 3, **hashes}
    if wrong := hosts.differing(header):
        raise LDISError(f"the hosts differ in {', '.join(wrong)}; give all of them the same model and data")
    records: Records | None = None
    with contextlib.ExitStack() as stack:

        def start() -> int:
            nonlocal records
            records = stack.enter_context(Records(beside(out, ".records.jsonl"), header, kind, out.exists()))
            return len(records.records)

        done = hosts.on_lead(start)
        for record in hosts.in_order(make(hosts.share(range(done, count))), count - done, meet_every):
            if records is not None:
                records.append(record)
    return [] if records is None else records.records


def _figures(records: Sequence[dict[str, Any]], key: str, protocol: Protocol) -> dict[str, Any]:
    """Figures of the areas under ``key``, by name of class."""
    records = [record for record in records if not record["absent"]]
    names = {record["class_id"]: record["class_name"] for record in records}
    found = image_figures([{**record, "areas": record[key]} for record in records], protocol.accumulation)
    return found | {"iou_per_class": {names[c]: value for c, value in found["iou_per_class"].items()}}


def _image_report(
    protocol: Protocol,
    subject: Subject,
    figures: Mapping[str, Any],
    records: Sequence[dict[str, Any]],
    episodes: FrozenEpisodes,
    num_shots: int | list[int],
) -> dict[str, Any]:
    """The model's figures beside the baselines' of ``records``."""
    return {
        "benchmark": protocol.name,
        **subject.facts,
        **figures,
        **score_figures(records),
        "baselines": {name: _figures(records, name, protocol) for name in BASELINES},
        "episodes": len(episodes),
        "episodes_per_class": dict(Counter(record["class_name"] for record in records if not record["absent"])),
        "episodes_hash": episodes.hash,
        "num_shots": num_shots,
        "accumulation": protocol.accumulation,
    }
