"""What ``python -m ldis_jax.segment`` does: queries on disk in; masks, overlays and probabilities on disk out."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ldis_jax.commands.segment_outputs import Folders, Outputs, Result, check_apart, digest, labels_of
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
    """Pictures of files, folders and patterns, in the order given; or one video, a file.

    Raises:
        LDISError: nothing is there, or a video among others.
    """
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
    if len(found) > 1 and any(map(is_video, found)):
        raise LDISError(f"--query: {next(filter(is_video, found))} is a video; segment one at a time")
    return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class PictureWork:
    """One picture, one file an output; as of all work, ``many`` is whether devices could share it."""

    query: Path
    outputs: Outputs
    many = False

    def run(self, pipe: LDISPipeline, prompts: Any, quiet: bool, **options: Any) -> dict[str, Any]:
        """Does it, and reports; ``prompts`` as for ``segment_images``; ``quiet`` says nothing meanwhile."""
        image = read_image(self.query)
        result = next(pipe.segment_images([image], prompts, **options))
        return {"masks": [self.outputs.save(self.query, image, result)], "failed": [], "skipped": 0}


@dataclasses.dataclass(frozen=True)
class FolderWork:
    """Many pictures; those whose results are there are left alone."""

    places: Mapping[Path, Outputs]
    classes: Classes
    folders: Folders
    many = True

    def run(self, pipe: LDISPipeline, prompts: Any, quiet: bool, **options: Any) -> dict[str, Any]:
        """Does it; a picture that cannot be read is left out, and listed in the report."""
        names = tuple(self.classes)
        left = [query for query, place in self.places.items() if not place.are_there(names)]
        failed: list[str] = []
        read: deque[tuple[Path, np.ndarray]] = deque()

        def images() -> Iterator[np.ndarray]:
            self.folders.write()  # drawn from once the prompts are read
            for query, image in zip(left, map_ahead(_try_to_read, left, _AHEAD), strict=True):
                if isinstance(image, LDISError):
                    failed.append(str(image))
                else:
                    read.append((query, image))
                    yield image

        def save(item: tuple[tuple[Path, np.ndarray], Result]) -> dict[str, Any]:
            (query, image), result = item
            return self.places[query].save(query, image, result)

        results = pipe.segment_images(images(), prompts, **options)
        saved = map_ahead(save, ((read.popleft(), result) for result in results), _AHEAD)
        skipped, masks = len(self.places) - len(left), []
        try:
            for mask in tqdm(saved, "segment", len(self.places), unit="picture", initial=skipped, disable=quiet):
                masks.append(mask)
        except KeyboardInterrupt:
            done = f"{skipped + len(masks)} of {len(self.places)}"
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
        """Does it, with few frames in memory."""
        frames: deque[np.ndarray] = deque()

        def read() -> Iterator[np.ndarray]:
            for frame in self.video:
                frames.append(frame)
                yield frame

        if self.labels is not None:
            del options["ignore_label"]
            found = pipe.segment_video(read(), self.labels, **options)
        else:
            found = map(labels_of, pipe.segment_images(read(), prompts, **options))
        shown, out, masks = self.overlay, self.folders.outputs.out, []
        film = shown if shown and shown.suffix.lower() == ".mp4" else None
        with video_writer(film, self.video.fps) if film else contextlib.nullcontext() as write:
            progress = tqdm(found, "segment", self.video.num_frames, unit="frame", disable=quiet)
            for i, (labels, name) in enumerate(zip(progress, self.video.frame_names(), strict=False)):
                if i == 0:
                    self.folders.write()  # the prompts are read by now
                frame = frames.popleft()
                if write is not None:
                    write(overlay_labels(frame, labels))
                elif shown is not None:
                    write_png(shown / f"{name}.png", overlay_labels(frame, labels))
                write_png(out / f"{name}.png", labels, PALETTE)
                covers = {str(value): float((labels == value).mean()) for value in np.unique(labels) if value}
                masks.append({"query": f"{self.query}#{i}", "mask": str(out / f"{name}.png"), "covers": covers})
        return {"masks": masks, "failed": [], "skipped": 0}


Work = PictureWork | FolderWork | ClipWork


def picture_work(query: Path, outputs: Outputs) -> PictureWork:
    """Raises :class:`LDISError` where outputs are not PNG files."""
    for path in outputs.given().values():
        if path.suffix.lower() != ".png":
            raise LDISError(f"{path}: outputs are PNG files; end the name in .png")
    return PictureWork(query, outputs)


def folder_work(queries: Sequence[Path], classes: Classes, outputs: Outputs, made_by: Mapping[str, Any]) -> FolderWork:
    """``made_by`` is what decides results besides prompts, and stays with them.

    Raises:
        LDISError: outputs that are no folders, or that hold something else than results of the same command.
    """
    _check_places(queries, outputs.given())
    root = Path(os.path.commonpath([query.absolute().parent for query in queries]))
    places = {query: outputs.within(query.absolute().relative_to(root).with_suffix(".png")) for query in queries}
    folders = Folders(outputs, {**made_by, "prompts": _digests(classes)})
    written = [place.files(tuple(classes)) for place in places.values()]
    folders.check({kind: [path for files in written for path in files[kind]] for kind in outputs.given()})
    given = [Path(path) for pairs in classes.values() for pair in pairs for path in pair]
    flagged = ((kind, path) for files in written for kind, paths in files.items() for path in paths)
    check_apart([*queries, *given], flagged)  # also those of an earlier command's results that this one reads
    return FolderWork(places, classes, folders)


def clip_work(
    queries: Sequence[Path], classes: Classes, first_mask: Path | None, outputs: Outputs, made_by: Mapping[str, Any]
) -> ClipWork:
    """Of one video file, or of the frames of a folder; ``made_by`` as of many pictures.

    Raises:
        LDISError: labels that are none, an output that cannot be, or no such video.
    """
    film = outputs.overlay is not None and outputs.overlay.suffix.lower() == ".mp4"
    in_folders = Outputs(outputs.out, None if film else outputs.overlay, None)
    query = queries[0] if is_video(queries[0]) else queries[0].parent
    _check_places(queries, in_folders.given())
    if outputs.probability is not None:
        raise LDISError("--probability: not of videos; leave it out")
    if query != queries[0] and set(queries) != set(find_queries([str(query)])):
        raise LDISError("--query: the frames of a video lie in one folder; name that folder")
    labels = None if first_mask is None else read_first_labels(first_mask)
    given = {"prompts": _digests(classes)} if first_mask is None else {"first_mask": digest(first_mask)}
    facts = {**made_by, **given, "video": [[path.name, path.stat().st_size] for path in queries]}
    folders = Folders(in_folders, facts)
    # Any picture there would pass for a frame's, also of a longer video.
    folders.check({kind: folder.glob("*.png") for kind, folder in in_folders.given().items()})
    return ClipWork(query, read_video(query), labels, folders, outputs.overlay)


def _check_places(queries: Sequence[Path], folders: Mapping[str, Path]) -> None:
    """Raises :class:`LDISError` where results of many pictures would not lie in folders, each under its own name."""
    for path in folders.values():
        a_file = path.suffix.lower() in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES, ".gif")
        if a_file or (path.exists() and not path.is_dir()):
            raise LDISError(f"{path}: several pictures need a folder; name one (a video's overlay may be an .mp4)")
    named: dict[Path, Path] = {}
    for query in queries:
        if (first := named.setdefault(query.absolute().with_suffix(""), query)) != query:
            raise LDISError(f"{query}: its mask would have the name of {first}'s; rename one")


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
