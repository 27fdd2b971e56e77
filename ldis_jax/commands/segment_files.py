"""The work of ``python -m ldis_jax.segment``: queries on disk in; masks, overlays and probabilities on disk out."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ldis_jax.commands.segment_outputs import Folders, Outputs, Result, digest, labels_of
from ldis_jax.errors import LDISError
from ldis_jax.inference.batches import map_ahead
from ldis_jax.inference.read_prompts import find_label
from ldis_jax.media.animations import is_animation
from ldis_jax.media.images import IMAGE_SUFFIXES, list_images, read_image, write_png
from ldis_jax.media.legends import Legend
from ldis_jax.media.masks import IGNORE_LABEL, read_first_labels
from ldis_jax.media.overlays import LABEL_COLOURS, overlay, overlay_labels
from ldis_jax.media.videos import VIDEO_SUFFIXES, Video, read_video, video_writer
from ldis_jax.pipeline import LDISPipeline
from ldis_jax.support.files import natural_key

Classes = Mapping[str, Sequence[tuple[str, str, str | None]]]  # image, mask, label; a class alone is called ""
_LOGGER = logging.getLogger(__name__)
_AHEAD = 4  # images that are read, or written, beside the device's work


def is_video(path: Path) -> bool:
    """True if a file's name says so."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_queries(names: Sequence[str]) -> list[Path]:
    """Images and videos of files, folders and patterns, in the order given; within each in that of their numbers."""
    found: list[Path] = []
    for name in names:
        if os.path.isdir(name):
            matches = list_images(name)
        elif os.path.exists(name):
            matches = [Path(name)]
        else:
            matches = sorted(map(Path, glob.glob(name, recursive=True)), key=natural_key)
        if not matches:
            raise LDISError(f"--query={name}: no image there that may be read; name a file, a folder or a pattern")
        found += matches
    return found


@dataclasses.dataclass(frozen=True)
class ImageWork:
    """Images, each with files of its own.

    Attributes:
        places: an image -> its files.
        classes: of the prompts.
        folders: of many images; results that are there are left alone. None of one.
    """

    places: Mapping[Path, Outputs]
    classes: Classes
    folders: Folders | None

    @property
    def many(self) -> bool:
        """True if devices could share it."""
        return self.folders is not None

    @property
    def names(self) -> dict[int, str]:
        """Class names by label; empty for a single class without a name."""
        return _names(self.classes)

    def run(self, pipe: LDISPipeline, prompts: Any, quiet: bool, **options: Any) -> dict[str, Any]:
        """Does it, and reports; of many, an image that cannot be read is left out and listed."""
        names = tuple(self.classes)
        changed = self.folders.changed() if self.folders is not None else set()
        there = {query for query, place in self.places.items() if self.many and place.are_there(names)} - changed
        left = [query for query in self.places if query not in there]
        failed: list[str] = []
        if changed:
            _LOGGER.warning("%d images have changed since their masks were made, which are made again", len(changed))

        def images() -> Iterator[tuple[Path, np.ndarray]]:
            if self.folders is not None:  # drawn from once the prompts are read
                for path in itertools.chain.from_iterable(self.places[query].all_files(names) for query in changed):
                    path.unlink(missing_ok=True)
                self.folders.write()
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
            for mask in tqdm(saved, "segment", total, unit="image", initial=skipped, disable=quiet or not self.many):
                masks.append(mask)
        except KeyboardInterrupt:
            done = f"{skipped + len(masks)} of {total}"
            raise KeyboardInterrupt(f"stopped after {done} images; the same command goes on") from None
        return {"masks": masks, "failed": failed, "skipped": skipped}

    def all_masks(self, report: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The masks of a report and those from earlier runs, in the order of the queries."""
        new = {mask["query"]: mask for mask in report["masks"]}
        there = {query: place for query, place in self.places.items() if place.out.exists()}
        return [new.get(str(query)) or place.record(query, tuple(self.classes)) for query, place in there.items()]


@dataclasses.dataclass(frozen=True)
class ClipWork:
    """A video: a folder of label maps, and an overlay as a video or a folder.

    Attributes:
        video: the frames.
        labels: of the first one; None where prompts show the classes.
        names: of classes, by label; empty where nobody says them.
        folders: of the label maps, and of overlays that are no video.
        overlay: a video or a folder.
    """

    video: Video
    labels: np.ndarray | None
    names: Mapping[int, str]
    folders: Folders
    overlay: Path | None
    many = True

    def run(self, pipe: LDISPipeline, prompts: Any, quiet: bool, **options: Any) -> dict[str, Any]:
        """Does it as :class:`ImageWork` does, with few frames in memory."""
        drawn, kept = itertools.tee(self.video.frames())
        images = (frame.image for frame in drawn)
        if self.labels is not None:
            del options["ignore_label"]
            found = pipe.segment_video(images, self.labels, **options)
        else:
            found = map(labels_of, pipe.segment_images(images, prompts, **options))
        shown, out, masks = self.overlay, self.folders.outputs.out, []
        film = shown if shown and shown.suffix.lower() == ".mp4" else None
        with video_writer(film, self.video.fps) if film else contextlib.nullcontext() as write:
            progress = tqdm(found, "segment", self.video.num_frames, unit="frame", disable=quiet)
            for i, (labels, frame) in enumerate(zip(progress, kept, strict=False)):
                if i == 0:
                    self.folders.write()  # the prompts are read by now
                    legend = Legend(self.names if len(self.names) > 1 else {}, labels)
                file = f"{frame.name}.png"
                if write is not None:
                    write(self._overlay(frame.image, labels, legend), frame.seconds)
                elif shown is not None:
                    write_png(shown / file, self._overlay(frame.image, labels, legend))
                write_png(out / file, labels, LABEL_COLOURS)
                names = self.names or {int(value): str(value) for value in np.unique(labels) if value}
                covers = {name: float((labels == value).mean()) for value, name in names.items()}
                query = self.video.files[i] if self.video.files else f"{self.video.path}#{i}"
                masks.append({"query": str(query), "mask": str(out / file), "covers": covers})
        return {"masks": masks, "failed": [], "skipped": 0}

    def _overlay(self, image: np.ndarray, labels: np.ndarray, legend: Legend) -> np.ndarray:
        if self.labels is None and not self.names:
            return overlay(image, labels == 1)
        return legend.draw(overlay_labels(image, labels))


def image_work(
    places: Mapping[Path, Outputs], classes: Classes, outputs: Outputs, made_by: Mapping[str, Any]
) -> ImageWork:
    """The work of many images; ``made_by`` decides results besides the prompts, and is kept with them."""
    queries = {query: place.out for query, place in places.items()}
    folders = Folders(outputs, {**made_by, "prompts": _digests(classes)}, queries)
    written = [place.files(tuple(classes)) for place in places.values()]
    folders.check({kind: [path for files in written for path in files[kind]] for kind in outputs.given()})
    return ImageWork(places, classes, folders)


def clip_work(
    queries: Sequence[Path], classes: Classes, first_mask: Path | None, outputs: Outputs, made_by: Mapping[str, Any]
) -> ClipWork:
    """The work of one video file, or of frames in the order given; ``made_by`` as in :func:`image_work`."""
    if len(queries) > 1 and any(map(is_video, queries)):
        raise LDISError("--query: a video is one file, or frames that are images; name that file, or those images")
    one = len(queries) == 1 and (queries[0].suffix.lower() not in IMAGE_SUFFIXES or is_animation(queries[0]))
    numbers = sorted(queries, key=natural_key)
    by_shell = [sorted(queries), sorted(queries, key=lambda path: "".join(filter(str.isalnum, str(path))).lower())]
    if queries != numbers and queries in by_shell:
        early = next(path for path, other in zip(queries, numbers, strict=True) if path != other)
        _LOGGER.warning("--query: frames come in the order given, not in that of their numbers: see %s", early)
    labels, names = None, _names(classes)
    if first_mask is not None:
        labels = read_first_labels(first_mask)
        names = _names_of_labels(labels, find_label(first_mask, None, "")[1])
    given = {"prompts": _digests(classes)} if first_mask is None else {"first_mask": digest(first_mask)}
    film = outputs.overlay is not None and outputs.overlay.suffix.lower() == ".mp4"
    in_folders = Outputs(outputs.out, None if film else outputs.overlay, None)
    facts = {**made_by, **given, "video": [[path.name, path.stat().st_size] for path in queries]}
    folders = Folders(in_folders, facts)
    # Any image there would pass for a frame's, also of a longer video.
    folders.check({kind: folder.glob("*.png") for kind, folder in in_folders.given().items()})
    return ClipWork(read_video(queries[0] if one else queries), labels, names, folders, outputs.overlay)


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few words."""
    masks, skipped = report["masks"], report["skipped"]
    if len(masks) == 1 and not skipped:
        scores = masks[0].get("scores", {})
        return ", ".join(_found(name, share, scores.get(name)) for name, share in masks[0]["covers"].items())
    return f"{len(masks)} masks" + (f", and {skipped} that were there" if skipped else "")


def _found(name: str, share: float, score: float | None) -> str:
    known = "" if score is None else f" (score {score:.2f})"
    return f"{name} covers {100 * share:.1f} % of the image{known}" if share else f"{name} is not there{known}"


def _digests(classes: Classes) -> dict[str, list[list[str | int | None]]]:
    return {name: [_digests_of_prompt(*prompt) for prompt in prompts] for name, prompts in classes.items()}


def _digests_of_prompt(image: str, mask: str, label: str | None) -> list[str | int | None]:
    return [digest(image), digest(mask), *([] if label is None else [find_label(mask, label, mask)[0]])]


def _names(classes: Classes) -> dict[int, str]:
    return {label: name for label, name in enumerate(classes, 1) if name}


def _names_of_labels(labels: np.ndarray, names: Sequence[str]) -> dict[int, str]:
    """Names by label of all labels that occur; empty if no label has a name."""
    there = [value for value in np.unique(labels).tolist() if value not in (0, IGNORE_LABEL)]
    return {value: names[value] if value < len(names) else f"class {value}" for value in there} if names else {}


def _try_to_read(path: Path) -> np.ndarray | LDISError:
    try:
        return read_image(path)
    except LDISError as error:
        return error
