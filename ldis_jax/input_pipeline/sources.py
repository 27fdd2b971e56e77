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
        entries: name -> attributes ``kind`` ("voc", "records" and "folder": ``root``, ``split``, ``classes``, of
            "folder" also ``skip_bad``; "procedural": ``split``) and ``weight``.
        image_size: S; procedural pictures are painted at that size.

    Raises:
        LDISError: no entry, an unknown kind, or unusable data.
    """
    sources: list[EpisodeSource] = []
    for name, entry in entries.items():
        if entry.kind == "voc":
            sources.append(VOCFolder(entry.root, entry.split, entry.classes or None))
        elif entry.kind == "records":
            sources.append(RecordSource(entry.root, entry.split, entry.classes or None))
        elif entry.kind == "folder":
            sources.append(PictureFolder(entry.root, entry.split, entry.classes or None, entry.skip_bad))
        elif entry.kind == "procedural":
            sources.append(ProceduralScenes(entry.split, image_size))
        else:
            raise LDISError(f"{name}: kind={entry.kind!r} must be 'voc', 'records', 'folder' or 'procedural'")
    if not sources:
        raise LDISError("config.data.sources: empty; name at least one source to train on")
    return sources[0] if len(sources) == 1 else MixtureSource(sources, [e.weight for e in entries.values()])
