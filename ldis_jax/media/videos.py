"""Videos in and out: a file that FFmpeg reads or a folder of frames, one frame in memory at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.media.images import PICTURE_SUFFIXES, read_image
from ldis_jax.support.files import StrPath, atomic_write

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
_FOLDER_FPS = 25.0  # of a folder of frames, which does not say


@dataclasses.dataclass(frozen=True)
class Video:
    """An iterable of its frames, uint8 [H, W, 3], upright.

    Attributes:
        path: of the file or folder.
        fps: frames a second.
        num_frames: None where the file does not tell.
    """

    path: Path
    fps: float
    num_frames: int | None

    def frame_names(self) -> Iterator[str]:
        """Of its frames: their files' own, without ending, or 000000, 000001, ..."""
        if self.path.is_dir():
            return (path.stem for path in _frame_files(self.path))
        return (f"{i:06}" for i in itertools.count())

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.path.is_dir():
            yield from map(read_image, _frame_files(self.path))
            return
        with _opened(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)


def read_video(path: StrPath) -> Video:
    """Opens a video file, or a folder whose pictures are frames in the order of their names.

    Raises:
        LDISError: missing, or nothing that can be read as a video; also while iterating, where a file is damaged.
    """
    path = Path(path)
    if path.is_dir():
        count = len(_frame_files(path))
        if not count:
            raise LDISError(f"{path}: no pictures in this folder; name a folder of frames")
        return Video(path, _FOLDER_FPS, count)
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
        return Video(path, float(rate or _FOLDER_FPS), stream.frames or None)


@contextlib.contextmanager
def video_writer(path: StrPath, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes H.264 in MP4, which browsers and phones play; whole or not at all.

    Yields:
        what adds a frame, uint8 [H, W, 3], and scales it to the first one's size. Odd sides lose their last line of
        pixels.

    Raises:
        LDISError: PyAV is not installed, or no frame came.
    """
    av = _pyav()
    with atomic_write(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        written = False

        def write(frame: np.ndarray) -> None:
            nonlocal written
            frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
            if not written:
                stream.height, stream.width = frame.shape[:2]
                written = True
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield write
        if not written:
            raise LDISError(f"{path}: a video needs a frame, and none came")
        container.mux(stream.encode())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream."""
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            if container.streams.video:
                yield container, container.streams.video[0]
                return
        why = "holds no video"
    except av.FFmpegError as error:
        why = f"not a video that FFmpeg can read ({error}); convert it to MP4"
    raise LDISError(f"{path}: {why}")


def _frame_files(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.suffix.lower() in PICTURE_SUFFIXES)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise LDISError("video files need PyAV: pip install 'ldis_jax[video]', or use a folder of frames") from None
    return av
