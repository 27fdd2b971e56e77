"""The episodes or videos of a protocol on the data at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ldis_jax.datasets.index import SUMMARY_FILE, Summary, records_folder
from ldis_jax.errors import LDISError
from ldis_jax.evaluation.protocols import Protocol
from ldis_jax.input_pipeline import (
    EpisodeRecord,
    FrozenEpisodes,
    IndexedSource,
    RecordSource,
    VOCFolder,
    episode_rng,
    read_manifest,
)
from ldis_jax.support.files import checked_file
from ldis_jax.support.json_files import read_json

_MANIFESTS = Path(__file__).parent / "manifests"


def open_source(root: Path, protocol: Protocol) -> IndexedSource:
    """Built records where ``data/build.py`` has been, or else a folder in VOC layout.

    Raises:
        LDISError: missing or unreadable data; images where videos are asked for.
    """
    kind = RecordSource if records_folder(root, protocol.split).is_dir() else VOCFolder
    if protocol.kind == "images" or kind is RecordSource:
        source = kind(root, protocol.split, protocol.classes or None)
        if protocol.kind == "images" or source.videos:
            return source
    raise LDISError(
        f"{root}: no built records of videos of split {protocol.split!r}, which {protocol.name} needs; "
        f"python data/build.py {protocol.data} --source=... --out={root.parent} --split={protocol.split}"
    )


def data_hash(root: Path, protocol: Protocol) -> str | None:
    """The hash of all images and masks of built records, as their builder wrote it; None of a folder in VOC layout."""
    path = records_folder(root, protocol.split) / SUMMARY_FILE
    return read_json(path, Summary).get("hash") if path.is_file() else None


def draw_episodes(source: IndexedSource, protocol: Protocol) -> list[EpisodeRecord]:
    """The protocol's episodes: draws of (its seed, index); or, where it gives no number, one for every query image."""
    shots, queries = protocol.num_shots, [None] * protocol.episodes or source.queries(protocol.num_shots)
    records = [source.draw_record(episode_rng(protocol.seed, i), shots, query) for i, query in enumerate(queries)]
    return records + (absent_episodes(source, len(records), protocol) if protocol.absent else [])


def absent_episodes(source: IndexedSource, count: int, protocol: Protocol) -> list[EpisodeRecord]:
    """Draws of (seed + 1, index) whose query does not show what is prompted."""
    seed, shots = protocol.seed + 1, protocol.num_shots
    return [source.draw_absent_record(episode_rng(seed, i), shots) for i in range(count)]


def open_episodes(source: IndexedSource, protocol: Protocol, manifest: Path | None = None) -> FrozenEpisodes:
    """Frozen episodes: of a manifest, of the one that is bundled, or else as :func:`draw_episodes` makes them.

    Raises:
        LDISError: a manifest with other numbers of prompts or other classes than the protocol's.
    """
    bundled = _MANIFESTS / f"{protocol.name}.json"
    manifest = bundled if manifest is None and bundled.is_file() else manifest
    return FrozenEpisodes.of_records(source, _records(source, protocol, manifest))


def open_curve(
    source: IndexedSource, protocol: Protocol, shots: Sequence[int], manifest: Path | None = None
) -> dict[int, FrozenEpisodes]:
    """The protocol's episodes with K prompts for every K of ``shots``, on the same queries and classes.

    They are drawn, or named by the manifest, with the largest K; the others have the first of its prompts. Hence a
    class counts only if it has more images than the largest K. The protocol's own ``num_shots`` does not count.

    Raises:
        LDISError: as :func:`open_episodes`; no class has that many images.
    """
    records = _records(source, dataclasses.replace(protocol, num_shots=max(shots)), manifest)
    return curve_of(source, records, shots)


def curve_of(
    source: IndexedSource, records: Sequence[EpisodeRecord], shots: Sequence[int]
) -> dict[int, FrozenEpisodes]:
    """For every K of ``shots`` the episodes with the first K of their prompts."""
    return {
        k: FrozenEpisodes.of_records(source, [dataclasses.replace(r, prompts=r.prompts[:k]) for r in records])
        for k in shots
    }


def _records(source: IndexedSource, protocol: Protocol, manifest: Path | None) -> list[EpisodeRecord]:
    if manifest is None:
        return draw_episodes(source, protocol)
    records = read_manifest(checked_file(manifest))
    for i, record in enumerate(records):
        left_out = protocol.classes and record.class_id not in protocol.classes
        if left_out or len(record.prompts) != protocol.num_shots:
            raise LDISError(
                f"{manifest}: episode {i} has {len(record.prompts)} prompts of class {record.class_id}, "
                f"{protocol.name} needs {protocol.num_shots} of {list(protocol.classes) or 'any'}; freeze a manifest "
                f"for it"
            )
    return records
