"""What ``python -m ldis_jax.segment`` does: queries on disk in; masks, overlays and probabilities on disk out."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ldis_jax.batches import map_ahead
from ldis_jax.errors import LDISError, list_names
from ldis_jax.files import write_json
from ldis_jax.image_io import PICTURE_SUFFIXES, read_image, read_label_map, write_png
from ldis_jax.pipeline import LDISPipeline
from ldis_jax.results import ClassSegmentation, Segmentation
from ldis_jax.video_io import VIDEO_SUFFIXES, Video, VideoWriter, read_video
from ldis_jax.visualize import PALETTE, overlay_labels

Classes = Mapping[str, Sequence[tuple[str, str]]]  # "" is the name of a class alone
Result = Segmentation | ClassSegmentation
_AHEAD = 4  # pictures that are read, or written, beside the device's work
_SETTINGS = "segment.json"  # beside many masks: what made them


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
            inside = sorted(path for path in Path(name).iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
            if not inside:
                raise LDISError(f"--query={name}: no pictures in this folder")
            found += inside
        else:
            matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
            if not matches:
                raise LDISError(f"{name}: no such file; name a picture, a folder, a pattern or a video")
            found += map(Path, matches)
    if len(found) > 1 and any(map(is_video, found)):
        raise LDISError(f"--query: {next(filter(is_video, found))} is a video; segment one at a time")
    return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where results of one query go; of many, the folders of them."""

    out: Path
    overlay: Path | None
    probability: Path | None

    def given(self) -> dict[str, Path]:
        """Those that are asked for."""
        return {name: path for name, path in vars(self).items() if path is not None}

    def within(self, name: Path) -> Outputs:
        """One query's, of many."""
        return Outputs(**{kind: path and path / name for kind, path in vars(self).items()})

    def save(self, query: Path, image: np.ndarray, result: Result) -> dict[str, Any]:
        """Writes them, the mask last, and says what was found."""
        if self.overlay is not None:
            write_png(self.overlay, result.overlay(image))
        if isinstance(result, Segmentation):
            probabilities, covers = {"": result.probability}, {"object": float(result.mask.mean())}
        else:
            names = result.class_names
            probabilities = dict(zip(names, result.probabilities[1:], strict=True))
            covers = {name: float((result.label_map == i + 1).mean()) for i, name in enumerate(names)}
        if self.probability is not None:
            for name, probability in probabilities.items():
                path = self.probability.with_suffix(f".{name}.png" if name else ".png")
                write_png(path, np.round(255 * probability).astype(np.uint8))
        result.save(self.out)
        return {"query": str(query), "mask": str(self.out), "covers": covers}


@dataclasses.dataclass(frozen=True)
class PictureWork:
    """One picture, one file an output; as of all work, ``many`` is whether devices could share it."""

    query: Path
    prompts: Any
    outputs: Outputs
    many = False

    def run(self, pipe: LDISPipeline, quiet: bool, **options: Any) -> dict[str, Any]:
        """Does it; ``quiet`` says nothing more here."""
        image = read_image(self.query)
        result = next(pipe.segment_images([image], self.prompts, **options))
        return {"masks": [self.outputs.save(self.query, image, result)], "failed": [], "skipped": 0}


@dataclasses.dataclass(frozen=True)
class FolderWork:
    """Many pictures; results that are there are left alone."""

    places: Mapping[Path, Outputs]
    prompts: Any
    made_by: Mapping[str, Any]
    settings: Path
    many = True

    def run(self, pipe: LDISPipeline, quiet: bool, **options: Any) -> dict[str, Any]:
        """Does it; a picture that cannot be read is left out, and listed in the report."""
        left = [query for query, place in self.places.items() if not place.out.exists()]
        failed: list[str] = []
        read: deque[tuple[Path, np.ndarray]] = deque()

        def images() -> Iterator[np.ndarray]:
            write_json(self.settings, self.made_by)  # drawn from once the prompts are read
            for query, image in zip(left, map_ahead(_try_to_read, left, _AHEAD), strict=True):
                if isinstance(image, LDISError):
                    failed.append(str(image))
                else:
                    read.append((query, image))
                    yield image

        def save(item: tuple[tuple[Path, np.ndarray], Result]) -> dict[str, Any]:
            (query, image), result = item
            return self.places[query].save(query, image, result)

        results = pipe.segment_images(images(), self.prompts, **options)
        saved = map_ahead(save, ((read.popleft(), result) for result in results), _AHEAD)
        skipped = len(self.places) - len(left)
        masks = list(tqdm(saved, "segment", len(self.places), unit="picture", initial=skipped, disable=quiet))
        return {"masks": masks, "failed": failed, "skipped": skipped}


@dataclasses.dataclass(frozen=True)
class ClipWork:
    """A video: a folder of label maps, and an overlay as a video or a folder."""

    query: Path
    video: Video
    prompts: Any
    labels: np.ndarray | None
    outputs: Outputs
    many = True

    def run(self, pipe: LDISPipeline, quiet: bool, **options: Any) -> dict[str, Any]:
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
            found = map(_labels, pipe.segment_images(read(), self.prompts, **options))
        shown, masks = self.outputs.overlay, []
        with VideoWriter(shown, self.video.fps) if shown and shown.suffix else contextlib.nullcontext() as writer:
            for i, labels in enumerate(tqdm(found, "segment", self.video.num_frames, unit="frame", disable=quiet)):
                frame, name = frames.popleft(), f"{i:06}.png"
                if writer is not None:
                    writer.write(overlay_labels(frame, labels))
                elif shown is not None:
                    write_png(shown / name, overlay_labels(frame, labels))
                write_png(self.outputs.out / name, labels, PALETTE)
                covers = {str(value): float((labels == value).mean()) for value in np.unique(labels) if value}
                masks.append({"query": f"{self.query}#{i}", "mask": str(self.outputs.out / name), "covers": covers})
        return {"masks": masks, "failed": [], "skipped": 0}


Work = PictureWork | FolderWork | ClipWork


def picture_work(query: Path, classes: Classes, outputs: Outputs) -> PictureWork:
    """Raises :class:`LDISError` where outputs are not PNG files or prompts are missing."""
    for path in outputs.given().values():
        if path.suffix.lower() != ".png":
            raise LDISError(f"{path}: outputs are PNG files; end the name in .png")
        if path.exists() and path.samefile(query):
            raise LDISError(f"{path}: is the query itself; write the result elsewhere")
    return PictureWork(query, _prompts(classes), outputs)


def folder_work(queries: Sequence[Path], classes: Classes, outputs: Outputs, made_by: Mapping[str, Any]) -> FolderWork:
    """``made_by`` is what decides results besides prompts, and stays with them.

    Raises:
        LDISError: outputs that are no folders, or that hold something else than results of the same command.
    """
    for path in outputs.given().values():
        if path.suffix.lower() == ".png" or (path.exists() and not path.is_dir()):
            raise LDISError(f"{path}: several pictures need a folder; name one")
    root = Path(os.path.commonpath([query.absolute().parent for query in queries]))
    places: dict[Path, Outputs] = {}
    named: dict[Path, Path] = {}
    for query in queries:
        name = query.absolute().relative_to(root).with_suffix(".png")
        if (other := named.setdefault(name, query)) != query:
            raise LDISError(f"{query}: its mask would have the name of {other}'s; rename one")
        places[query] = outputs.within(name)
    prompts = {name: [[_digest(path) for path in pair] for pair in pairs] for name, pairs in classes.items()}
    facts = json.loads(json.dumps({**made_by, "prompts": prompts, "outputs": sorted(outputs.given())}))
    settings = outputs.out / _SETTINGS
    before = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else None
    if before is not None and before != facts:
        differ = [name for name in facts if before.get(name) != facts[name]]
        raise LDISError(f"{outputs.out}: holds masks made with other {list_names(differ)}; choose another folder")
    for place in places.values():
        for path in place.given().values():
            if before is None and path.exists():
                raise LDISError(f"{path}: is there, and this command did not make it; choose another folder")
    return FolderWork(places, _prompts(classes), facts, settings)


def clip_work(queries: Sequence[Path], classes: Classes, first_mask: Path | None, outputs: Outputs) -> ClipWork:
    """Of one video file, or of the frames of a folder.

    Raises:
        LDISError: prompts and labels do not fit together, an output cannot be, or there is no such video.
    """
    if bool(classes) == (first_mask is not None):
        raise LDISError("a video takes either --prompt or --first_mask, one of them")
    if outputs.probability is not None:
        raise LDISError("--probability: not of videos; leave it out")
    if outputs.out.suffix or (outputs.out.exists() and not outputs.out.is_dir()):
        raise LDISError(f"{outputs.out}: the masks of a video need a folder; name one")
    if outputs.overlay is not None and outputs.overlay.suffix.lower() not in ("", ".mp4"):
        raise LDISError(f"{outputs.overlay}: an overlay of a video is an .mp4 file or a folder")
    query = queries[0] if len(queries) == 1 else queries[0].parent
    if any(path.parent != queries[0].parent for path in queries):
        raise LDISError("--query: the frames of a video lie in one folder; name that folder")
    labels = None if first_mask is None else read_label_map(first_mask)
    if labels is not None and set(np.unique(labels)) <= {0, 255}:
        labels = (labels == 255).astype(np.uint8)  # a mask as people paint it, not "ignore"
    video = read_video(query)
    first = next(iter(video))
    if labels is not None and labels.shape != first.shape[:2]:
        size = f"{labels.shape[1]}x{labels.shape[0]}, the first frame {first.shape[1]}x{first.shape[0]}"
        raise LDISError(f"{first_mask}: is {size}; draw it on the first frame")
    return ClipWork(query, video, _prompts(classes) if classes else None, labels, outputs)


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few words."""
    masks, skipped = report["masks"], report["skipped"]
    if len(masks) == 1 and not skipped:
        return ", ".join(
            f"{name} covers {100 * share:.1f} % of the picture" for name, share in masks[0]["covers"].items()
        )
    return f"{len(masks)} masks" + (f", and {skipped} that were there" if skipped else "")


def _prompts(classes: Classes) -> Any:
    """As :meth:`LDISPipeline.segment_images` takes them."""
    if not classes:
        raise LDISError("--prompt: missing; give IMAGE:MASK")
    return classes.get("", classes)


def _labels(result: Result) -> np.ndarray:
    return result.mask.astype(np.uint8) if isinstance(result, Segmentation) else result.label_map


def _try_to_read(path: Path) -> np.ndarray | LDISError:
    try:
        return read_image(path)
    except LDISError as error:
        return error


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise LDISError(
            f"{path}: {(error.strerror or str(error)).lower()}; name a prompt's image and its mask"
        ) from None
