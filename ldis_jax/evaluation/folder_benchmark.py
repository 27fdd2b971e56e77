"""The benchmark "folder": folders of one's own images, whose episodes are frozen beside the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ldis_jax.datasets.folder_check import CheckedFolder
from ldis_jax.errors import LDISError, list_names
from ldis_jax.evaluation import hosts
from ldis_jax.evaluation.benchmark_data import absent_episodes, curve_of
from ldis_jax.evaluation.protocols import FOLDER, FOLDER_ABSENT, Protocol
from ldis_jax.evaluation.report import Subject
from ldis_jax.evaluation.run import beside, evaluate_curve, evaluate_images
from ldis_jax.input_pipeline import EpisodeRecord, FrozenEpisodes, episodes_hash, read_manifest
from ldis_jax.input_pipeline.chosen_folders import Choice, ChosenFolders
from ldis_jax.media.masks import IGNORE_LABEL
from ldis_jax.support.files import checked_file, write_json


@dataclasses.dataclass(frozen=True)
class FolderBenchmark:
    """The folders, episodes and settings of one measurement.

    Attributes:
        protocol: the benchmark; its name and number of prompts.
        source: the folders.
        records: the episodes, with the most prompts of ``shots``.
        shots: numbers of prompts; several are a curve.
        facts: for the report.
    """

    protocol: Protocol
    source: ChosenFolders
    records: list[EpisodeRecord]
    shots: list[int]
    facts: dict[str, Any]


def open_folders(
    roots: Sequence[Path],
    choice: Choice,
    shots: Sequence[int],
    most: int | None,
    manifest: Path | None,
    absent: bool = False,
) -> FolderBenchmark:
    """Opens folders and draws episodes, or reads the frozen ones of ``manifest``, for which the choice leaves all in.

    Args:
        roots: the folders.
        choice: of queries, prompts and classes.
        shots: numbers of prompts; none is 1, or the manifest's.
        most: episodes of a class; None is all there are.
        manifest: a file or, of several folders, a folder with NAME.json for each.
        absent: add as many episodes whose query does not show what is prompted.

    Raises:
        LDISError: unusable folders, no episodes, or a manifest of others.
    """
    source, name = ChosenFolders(roots, choice), FOLDER_ABSENT if absent else FOLDER
    if manifest is None:
        shots = shots or [1]
        records = source.draw_each(max(shots), most)
        without = source.left_out(max(shots))
        if absent:
            records += absent_episodes(source, len(records), Protocol(name, FOLDER, num_shots=max(shots)))
        notes = [f"too few for an episode: {'; '.join(without)}"] if without else []
    else:
        records, apart = [], manifest.is_dir()
        if len(source.folders) > 1 and not apart:
            raise LDISError(f"{manifest}: no folder; of several data folders, freeze a manifest for each, as NAME.json")
        for folder, path in _manifest_files(manifest, list(source.folders), apart).items():
            records += source.of_manifest(folder, read_manifest(checked_file(path)), path)
        counts = {len(record.prompts) for record in records}
        shots = shots or [max(counts)]
        if counts != {max(shots)}:
            raise LDISError(
                f"{manifest}: episodes of {list_names(map(str, counts))} prompts, and not of {max(shots)} only; freeze "
                "a manifest for it"
            )
        notes = []
    of_folder = {folder: source.to_manifest(folder, records) for folder in source.folders}
    if idle := [folder for folder, of_one in of_folder.items() if not of_one]:
        raise LDISError(
            f"--data: {list_names(idle)}: no class there has a query with {max(shots)} prompts; leave that folder out"
        )
    facts = {
        "folders": {
            name: {
                "images": len(checked.index),
                "episodes": len(of_folder[name]),
                "episodes_hash": episodes_hash(of_folder[name]),
            }
            for name, checked in source.folders.items()
        },
        "data_hash": source.data_hash,
        "choice": {"manifest": str(manifest)} if manifest else _in_words(choice, most),
        "notes": notes + [note for name, checked in source.folders.items() for note in _remarks(name, checked)],
    }
    return FolderBenchmark(Protocol(name, FOLDER, num_shots=max(shots)), source, records, list(shots), facts)


def evaluate_folders(benchmark: FolderBenchmark, subject: Subject, out: Path) -> dict[str, Any]:
    """Runs ``evaluate_images`` or ``evaluate_curve``, and freezes the episodes beside the report."""
    protocol, source, records, shots, facts = (getattr(benchmark, f.name) for f in dataclasses.fields(benchmark))
    subject = subject._replace(facts={**subject.facts, **facts})
    if len(shots) > 1:
        report = evaluate_curve(protocol, curve_of(source, records, shots), subject, out)
    else:
        report = evaluate_images(protocol, FrozenEpisodes.of_records(source, records), subject, out)

    def freeze() -> None:
        several = len(source.folders) > 1
        for folder, path in _manifest_files(manifest_place(out, source.folders), list(source.folders), several).items():
            write_json(path, [record.to_json() for record in source.to_manifest(folder, records)])

    hosts.on_lead(freeze)
    return report


def manifest_place(out: Path, folders: Collection[str]) -> Path:
    """Where the episodes of a report are frozen: a file or, of several folders, a folder."""
    return beside(out, ".episodes" if len(folders) > 1 else ".episodes.json")


def _manifest_files(place: Path, folders: Sequence[str], apart: bool) -> dict[str, Path]:
    """Where the manifest of each folder is: ``place``, or NAME.json in it."""
    return {folder: place / f"{folder}.json" if apart else place for folder in folders}


def _remarks(name: str, checked: CheckedFolder) -> list[str]:
    """Notes on a folder that a reader of the figures should know."""
    found = []
    if checked.problems:
        found.append(f"{name}: {len(checked.problems)} files left out, such as {checked.problems[0]}")
    labels = set(checked.index.labels.tolist()) - {0, IGNORE_LABEL}
    unnamed = sorted(label for label in labels if label >= len(checked.class_names) > 0)
    if unnamed:
        found.append(f"{name}: values without a name in classes.json: {', '.join(map(str, unnamed))}")
    if checked.notes:
        found.append(f"{name}: {len(checked.notes)} notes of check_data, such as {checked.notes[0]}")
    return found


def _in_words(choice: Choice, most: int | None) -> dict[str, Any]:
    return {
        "queries": choice.queries,
        "prompts": "all others" if choice.prompts is None else str(choice.prompts),
        "classes": list(choice.classes) or "all",
        "min_object_percent": choice.min_object_percent,
        "episodes_per_class": most or "all",
    }
