"""From a video and labels of its first frame to an overlay video and a zip of label maps, frame by frame."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldis_jax.demo.uploads import Limits
from ldis_jax.media.images import write_png
from ldis_jax.media.overlays import LABEL_COLOURS, overlay_labels
from ldis_jax.media.videos import Frame, Video, read_video, video_writer
from ldis_jax.pipeline import LDISPipeline
from ldis_jax.support.files import atomic_write


@dataclasses.dataclass(frozen=True)
class VideoProgress:
    """How far a video is.

    Attributes:
        done: frames that are segmented.
        total: of how many, where the file tells.
        overlay: uint8 [H, W, 3], the latest frame with its objects.
        notes: lines on what is read in another way than it looks, such as frames that are missing.
        video: the overlay as an MP4, when all frames are done.
        masks: a zip of palette PNGs, "00000.png" and on, whose values are the labels; as ``video``.
    """

    done: int
    total: int | None
    overlay: np.ndarray
    notes: Sequence[str] = ()
    video: Path | None = None
    masks: Path | None = None


def first_frame(path: str, limits: Limits) -> np.ndarray | None:
    """The image to paint on, uint8 [H, W, 3]; None of a video without frames.

    Raises:
        LDISError: not a video within the limits.
    """
    frame = next(_within(read_video(path), limits), None)
    return None if frame is None else frame.image


def film_of(
    path: str, limits: Limits, folder: Path, in_time: Callable[[Iterator[Frame]], Iterator[Frame]] = iter
) -> Path:
    """An animation as an MP4 of the same times, which browsers play as a video.

    Args:
        path: of the animation.
        limits: of the server.
        folder: for the MP4.
        in_time: passes frames on, or ends what takes too long.

    Raises:
        LDISError: not a video within the limits.
    """
    video = read_video(path)
    with video_writer(folder / "animation.mp4", video.fps) as write:
        for frame in in_time(_within(video, limits)):
            write(frame.image, frame.seconds)
    return folder / "animation.mp4"


def segment(
    pipe: LDISPipeline, path: str, labels: np.ndarray, limits: Limits, folder: Path, **options: Any
) -> Iterator[VideoProgress]:
    """Propagates the first frame's labels, uint8 [H, W], through a video; few frames are in memory at a time.

    Yields:
        one a frame, and one when ``overlay.mp4`` and ``masks.zip`` are in the folder.

    Raises:
        LDISError: not a video within the limits, or labels that do not fit it.
    """
    notes: list[str] = []
    video = read_video(path, lambda line: notes.append(line.replace(str(path), Path(path).name)))
    ahead, frames = itertools.tee(_within(video, limits))
    results = pipe.segment_video((frame.image for frame in ahead), labels, **options)
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(video_writer(folder / "overlay.mp4", video.fps))
        temporary = stack.enter_context(atomic_write(folder / "masks.zip"))
        archive = stack.enter_context(zipfile.ZipFile(temporary, "w"))  # PNGs do not get smaller
        for done, (label_map, frame) in enumerate(zip(results, frames, strict=True), 1):
            overlay = overlay_labels(frame.image, label_map)
            write(overlay, frame.seconds)
            write_png(folder / "label_map.png", label_map, LABEL_COLOURS)
            archive.write(folder / "label_map.png", f"{done - 1:05d}.png")
            yield VideoProgress(done, video.num_frames, overlay, notes)
    yield VideoProgress(done, done, overlay, notes, folder / "overlay.mp4", folder / "masks.zip")


def _within(video: Video, limits: Limits) -> Iterator[Frame]:
    for frame in video.frames():
        limits.check_size(frame.image.shape[1], frame.image.shape[0], "video")
        yield frame
