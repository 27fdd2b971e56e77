"""Episode sources from the config's entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.episodes import EpisodeSource
from ldis_jax.input_pipeline.mixture import MixtureSource
from ldis_jax.input_pipeline.picture_folder import PictureFolder
from ldis_jax.input_pipeline.procedural import ProceduralScenes
from ldis_jax.input_pipeline.record_source import RecordSource
from ldis_jax.input_pipeline.voc_folder import VOCFolder


def make_source(entries: Mapping[str, Any], image_size: int) -> EpisodeSource:
    """One source, or the mixture of several with their per-sample weights.

    Args:
        entries: by name, as :mod:`ldis_jax.recipes.data` makes them.
        image_size: S; procedural pictures are painted at that size.

    Raises:
        LDISError: no entry, an unknown kind or split, or unusable data.
    """
    sources = [_source(name, entry, image_size) for name, entry in entries.items()]
    return sources[0] if len(sources) == 1 else MixtureSource(sources, [e.weight for e in entries.values()])


def _source(name: str, entry: Any, image_size: int) -> EpisodeSource:
    match entry.kind, entry.split:
        case "voc", split:
            return VOCFolder(entry.root, split, entry.classes or None)
        case "records", split:
            return RecordSource(entry.root, split, entry.classes or None)
        case "folder", ("train" | "val") as split:
            return PictureFolder(entry.root, split, entry.classes or None, entry.skip_bad)
        case "procedural", ("train" | "unseen") as split:
            return ProceduralScenes(split, image_size)
    raise LDISError(
        f"{name}: kind={entry.kind!r} of split {entry.split!r}: must be 'voc' or 'records', 'folder' of 'train' or "
        f"'val', or 'procedural' of 'train' or 'unseen'"
    )
