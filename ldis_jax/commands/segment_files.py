"""What ``python -m ldis_jax.segment`` does: queries on disk in; masks, overlays and probabilities on disk out."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ldis_jax.commands.segment_outputs import Folders, Outputs, Result, digest, labels_of
from ldis_jax.errors import LDISError
from ldis_jax.inference.batches import map_ahead
from ldis_jax.media.images import PICTURE_SUFFIXES, read_first_labels, read_image, write_png
from ldis_jax.media.overlays import PALETTE, overlay_labels
from ldis_jax.media.videos import VIDEO_SUFFIXES, Video, read_video, video_writer
from ldis_jax.pipeline import LDISPipeline

Classes = Mapping[str, Sequence[tuple[str, str]]]  # "" is the name of a class alone
_AHEAD = 4  # pictures that are read, or written, beside the device's work


def is_video(path: Path) -> bool:
    """Whether a file's name says so."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_queries(names: Sequence[str]) -> list[Path]:
    """Pictures and videos of files, folders and patterns, in the order given."""
    found: list[Path] = []
    for name in names:
        if os.path.isdir(name):
            inside = sorted(glob.glob(f"{glob.escape(name)}/*", include_hidden=True))
            matches = [path for path in inside if Path(path).suffix.lower() in PICTURE_SUFFIXES]
        else:
            matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            raise LDISError(f"--query={name}: no picture there that may be read; name a file, a folder or a pattern")
        found += map(Path, matches)
    return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class PictureWork:
    """Pictures, each with files of its own.

    Attributes:
        places: a picture -> its files.
        classes: of the prompts.
        folders: of many pictures; results that are there are left alone. None of one.
    """

    places: Mapping[Path, Outputs]
    classes: Classes
    folders: Folders | None

    @property
    def many(self) -> bool:
        """Whether devices could share it."""
        return self.folders is not None

    def run(self, pipe: LDISPipeline, prompts: Any, quiet: bool, **options: Any) -> dict[str, Any]:
        """Does it, and reports; of many, a picture that cannot be read is left out and listed."""
        names = tuple(self.classes)
        left = [query for query, place in self.places.items() if not (self.many and place.are_there(names))]
        failed: list[str] = []

        def images() -> Iterator[tuple[Path, np.ndarray]]:
            if self.folders is not None:
                self.folders.write()  # drawn from once the prompts are read
            read = _try_to_read if self.many else read_image
            for query, image in zip(left, map_ahead(read, left, _AHEAD), strict=True):
                if isinstance(image, LDISError):
                    failed.append(str(image))
                else:
                    yield query, image

        def save(item: tuple[Result, tuple[Path, np.ndarray]]) -> dict[str, Any]:
            result, (query, image) = item
            return self.places[query].save(query, image, result)

        drawn, kept = itertools.tee(images())
        results = pipe.segment_images((image for _, image in drawn), prompts, **options)
        saved = map_ahead(save, zip(results, kept, strict=False), _AHEAD)
        total, skipped, masks = len(self.places), len(self.places) - len(left), []
        try:
            for mask in tqdm(saved, "segment", total, unit="picture", initial=skipped, disable=quiet or not self.many):
                masks.append(mask)
        except KeyboardInterrupt:
            done = f"{skipped + len(masks)} of {total}"
            raise KeyboardInterrupt(f"stopped after {done} pictures; the same command goes on") from None
        return {"masks": masks, "failed": failed, "skipped": skipped}

    def all_masks(self, report: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Of a report, with those that were there before it, in the queries' order."""
        new = {mask["query"]: mask for mask in report["masks"]}
        there = {query: place for query, place in self.places.items() if place.out.exists()}
        return [new.get(str(query)) or place.record(query, tuple(self.classes)) for query, place in there.items()]


@dataclasses.dataclass(frozen=True)
class ClipWork:
    """A video: a folder of label maps, and an overlay as a video or a folder."""

    query: Path
    video: Video
    labels: np.ndarray | None
    folders: Folders
    overlay: Path | None
    many = True

    def run(self, pipe: LDISPipeline, prompts: Any, quiet: bool, **options: Any) -> dict[str, Any]:
        """Does it as :class:`PictureWork` does, with few frames in memory."""
        drawn, kept = itertools.tee(self.video)
        if self.labels is not None:
            del options["ignore_label"]
            found = pipe.segment_video(drawn, self.labels, **options)
        else:
            found = map(labels_of, pipe.segment_images(drawn, prompts, **options))
        shown, out, masks = self.overlay, self.folders.outputs.out, []
        film = shown if shown and shown.suffix.lower() == ".mp4" else None
        with video_writer(film, self.video.fps) if film else contextlib.nullcontext() as write:
            progress = tqdm(found, "segment", self.video.num_frames, unit="frame", disable=quiet)
            for i, (labels, frame, name) in enumerate(zip(progress, kept, self.video.frame_names(), strict=False)):
                if i == 0:
                    self.folders.write()  # the prompts are read by now
                if write is not None:
                    write(overlay_labels(frame, labels))
                elif shown is not None:
                    write_png(shown / f"{name}.png", overlay_labels(frame, labels))
                write_png(out / f"{name}.png", labels, PALETTE)
                covers = {str(value): float((labels == value).mean()) for value in np.unique(labels) if value}
                masks.append({"query": f"{self.query}#{i}", "mask": str(out / f"{name}.png"), "covers": covers})
        return {"masks": masks, "failed": [], "skipped": 0}


def picture_work(
    places: Mapping[Path, Outputs], classes: Classes, outputs: Outputs, made_by: Mapping[str, Any]
) -> PictureWork:
    """Of many pictures; ``made_by`` is what decides results besides prompts, and stays with them."""
    folders = Folders(outputs, {**made_by, "prompts": _digests(classes)})
    written = [place.files(tuple(classes)) for place in places.values()]
    folders.check({kind: [path for files in written for path in files[kind]] for kind in outputs.given()})
    return PictureWork(places, classes, folders)


def clip_work(
    queries: Sequence[Path], classes: Classes, first_mask: Path | None, outputs: Outputs, made_by: Mapping[str, Any]
) -> ClipWork:
    """Of one video file, or of the frames of a folder; ``made_by`` as of many pictures."""
    query = next(filter(is_video, queries), queries[0].parent)
    if set(queries) != set(find_queries([str(query)])):
        raise LDISError("--query: a video is one file, or its frames lie in one folder; name that file or that folder")
    labels = None if first_mask is None else read_first_labels(first_mask)
    given = {"prompts": _digests(classes)} if first_mask is None else {"first_mask": digest(first_mask)}
    film = outputs.overlay is not None and outputs.overlay.suffix.lower() == ".mp4"
    in_folders = Outputs(outputs.out, None if film else outputs.overlay, None)
    facts = {**made_by, **given, "video": [[path.name, path.stat().st_size] for path in queries]}
    folders = Folders(in_folders, facts)
    # Any picture there would pass for a frame's, also of a longer video.
    folders.check({kind: folder.glob("*.png") for kind, folder in in_folders.given().items()})
    return ClipWork(query, read_video(query), labels, folders, outputs.overlay)


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few words."""
    masks, skipped = report["masks"], report["skipped"]
    if len(masks) == 1 and not skipped:
        return ", ".join(
            f"{name} covers {100 * share:.1f} % of the picture" for name, share in masks[0]["covers"].items()
        )
    return f"{len(masks)} masks" + (f", and {skipped} that were there" if skipped else "")


def _digests(classes: Classes) -> dict[str, list[list[str]]]:
    return {name: [[digest(path) for path in pair] for pair in pairs] for name, pairs in classes.items()}


def _try_to_read(path: Path) -> np.ndarray | LDISError:
    try:
        return read_image(path)
    except LDISError as error:
        return error
