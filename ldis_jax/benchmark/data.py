"""The episodes of a protocol on the data at hand."""

from __future__ import annotations

from pathlib import Path

from ldis_jax.benchmark.protocols import Protocol
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import FrozenEpisodes, VOCFolder, read_manifest


def open_episodes(root: Path, protocol: Protocol, manifest: Path | None = None) -> FrozenEpisodes:
    """Frozen episodes, of a manifest or of the draws of (the protocol's seed, index).

    Args:
        root: folder of the data set.
        protocol: says which split, classes and how many prompts and episodes.
        manifest: names of episodes; must have the protocol's number of prompts, and its classes only.

    Raises:
        LDISError: missing or unreadable data, or a manifest of another protocol.
    """
    source = VOCFolder(root, protocol.split, protocol.classes or None)
    if manifest is None:
        length = protocol.episodes or source.num_images
        return FrozenEpisodes.of_draws(source, length, protocol.num_shots, protocol.seed)
    records = read_manifest(manifest)
    for i, record in enumerate(records):
        if len(record.prompts) != protocol.num_shots:
            raise LDISError(f"{manifest}: episode {i} has {len(record.prompts)} prompts, {protocol.name} has others")
        if protocol.classes and record.class_id not in protocol.classes:
            raise LDISError(f"{manifest}: episode {i} is of class {record.class_id}, which {protocol.name} leaves out")
    return FrozenEpisodes.of_records(source, records)
