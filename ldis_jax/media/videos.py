"""Videos in and out: a file that FFmpeg reads or a folder of frames, one frame in memory at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

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
            return (path.stem for path in _frame_names(self.path))
        return (f"{i:06}" for i in itertools.count())

    def __iter__(self) -> Iterator[np.ndarray]:
        return _folder_frames(self.path) if self.path.is_dir() else _file_frames(self.path)


def read_video(path: StrPath) -> Video:
    """Opens a video file, or a folder whose pictures are frames in the order of their names.

    Raises:
        LDISError: missing, or nothing that can be read as a video; also while iterating, where a file is damaged.
    """
    path = Path(path)
    if path.is_dir():
        names = _frame_names(path)
        if not names:
            raise LDISError(f"{path}: no pictures in this folder; name a folder of frames")
        return Video(path, _FOLDER_FPS, len(names))
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
        return Video(path, float(rate or _FOLDER_FPS), stream.frames or None)


class VideoWriter:
    """Writes H.264 in MP4, which browsers and phones play; whole or not at all. Use it in a ``with``."""

    def __init__(self, path: StrPath, fps: float):
        """Nothing is written before the first frame.

        Args:
            path: ends in .mp4.
            fps: frames a second.

        Raises:
            LDISError: another ending, or PyAV is not installed.
        """
        self._path, self._fps = Path(path), Fraction(fps).limit_denominator(1001)
        if self._path.suffix.lower() != ".mp4":
            raise LDISError(f"{path}: videos are written as MP4; end the name in .mp4")
        _pyav()
        self._stack = contextlib.ExitStack()
        self._container: Any = None

    def __enter__(self) -> Self:
        self._temporary = self._stack.enter_context(atomic_write(self._path))
        return self

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame, uint8 [H, W, 3]; all have the first one's size. Odd sides lose their last line of pixels."""
        av = _pyav()
        frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        if self._container is None:
            self._container = self._stack.enter_context(av.open(str(self._temporary), "w"))
            self._stream = self._container.add_stream("libx264", rate=self._fps, options={"crf": "18"})
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        if frame.shape[:2] != (self._stream.height, self._stream.width):
            raise LDISError(
                f"{self._path}: a frame of {frame.shape[:2]} among others of another size; scale them alike"
            )
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with self._stack:
            if error is not None:
                raise error
            if self._container is None:
                raise LDISError(f"{self._path}: a video needs a frame, and none came")
            self._container.mux(self._stream.encode())


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


def _file_frames(path: Path) -> Iterator[np.ndarray]:
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)


def _folder_frames(path: Path) -> Iterator[np.ndarray]:
    return map(read_image, _frame_names(path))


def _frame_names(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.suffix.lower() in PICTURE_SUFFIXES)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise LDISError("video files need PyAV: pip install 'ldis_jax[video]', or use a folder of frames") from None
    return av
