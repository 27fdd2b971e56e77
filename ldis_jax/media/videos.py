"""Videos in and out: what FFmpeg reads, animations, or frames in files; few frames are in memory at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.media import animations
from ldis_jax.media.images import list_images, read_image
from ldis_jax.support.files import StrPath, atomic_write, checked_file

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
    *(".3gp", ".flv", ".m2ts", ".mts", ".ogv", ".ts", ".wmv"),
)
_LOGGER = logging.getLogger(__name__)
_FOLDER_FPS = 25.0  # of frames in files, which do not say
_TICKS = 120_000  # a second of our MP4s; the usual rates, 30000/1001 among them, are whole numbers of them
_LATE = 4  # frames; after damage decoders let some out behind later ones
_MOST_PIXELS = 100_000_000  # of a frame; 8K has 33 million
_LONGEST = 3600  # seconds that a frame may show; what says more is damaged


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        name: its file's, without the ending; else its number, 000000, 000001, ...
        image: uint8 [H, W, 3].
        seconds: how long it shows.
    """

    name: str
    image: np.ndarray
    seconds: float


@dataclasses.dataclass(frozen=True)
class Video:
    """An iterable of its frames' images, uint8 [H, W, 3], upright and all of the first one's size.

    Attributes:
        path: of the file or folder.
        fps: frames a second, on average.
        num_frames: what the file says; None where it says nothing.
        files: the frames, where each is a file.
        say: takes a line on what is read in another way than it looks, such as a file that is cut off.
    """

    path: Path
    fps: float
    num_frames: int | None
    files: tuple[Path, ...] = ()
    say: Callable[[str], None] = _LOGGER.warning

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.image for frame in self.frames())

    def frames(self) -> Iterator[Frame]:
        """Its frames with their names and times."""
        first, said = None, False
        for frame in self._frames_as_they_are():
            height, width = frame.image.shape[:2]
            first = first or (width, height)
            if (width, height) == first:
                yield frame
                continue
            if not said:
                size = f"{width}x{height}, the first one {first[0]}x{first[1]}"
                self.say(f"{self.path}: frame {frame.name} is {size}; all frames are fitted to the first one's size")
                said = True
            yield frame._replace(image=cv2.resize(frame.image, first, interpolation=cv2.INTER_AREA))

    def _frames_as_they_are(self) -> Iterator[Frame]:
        if not self.files:
            read = self._read_animation if animations.is_animation(self.path) else self._read_film
            numbered = enumerate(read())
            return (Frame(f"{i:06}", image, seconds) for i, (image, seconds) in numbered)
        names = [path.stem for path in self.files]
        if len(set(names)) < len(names):
            names = [f"{i:06}" for i in range(len(names))]
        return (Frame(*pair, 1 / self.fps) for pair in zip(names, map(read_image, self.files), strict=True))

    def _read_animation(self) -> Iterator[tuple[np.ndarray, float]]:
        done = 0
        for image, seconds in animations.read_animation(self.path):
            done += 1
            yield read_image(image), seconds
        if done < (self.num_frames or 0):
            self.say(f"{self.path}: ends after {done} frames; the file is damaged or cut off")

    def _read_film(self) -> Iterator[tuple[np.ndarray, float]]:
        with _opened(self.path) as (container, stream):
            decoder = _Decoder(container, stream)
            # A frame shows until the next one comes.
            end: tuple[Any, None, float] = None, None, 0.0
            for (image, time, says), (_, following, _) in itertools.pairwise(itertools.chain(decoder.images(), [end])):
                seconds = says if time is None or following is None else following - time
                yield image, seconds if 0 < seconds <= _LONGEST else 1 / self.fps
            if words := decoder.losses():
                self.say(f"{self.path}: {words}; the file is damaged or cut off")


def read_video(source: StrPath | Sequence[StrPath], say: Callable[[str], None] = _LOGGER.warning) -> Video:
    """Opens a video.

    Args:
        source: a video file; an animation (GIF, WebP, PNG, AVIF); a folder whose images are frames, in the order of
            the numbers in their names; or the files of frames, in the order given.
        say: as :class:`Video` has it.

    Raises:
        LDISError: missing, or nothing that can be read as a video; also while iterating, where a frame's own file is
            damaged.
    """
    given = () if isinstance(source, str | os.PathLike) else tuple(map(Path, source))
    path = given[0].parent if given else Path(source if isinstance(source, str | os.PathLike) else "frames")
    if given or Path(checked_file(path)).is_dir():
        if not (files := given or tuple(list_images(path, say))):
            raise LDISError(f"{path}: no images in this folder; name a folder of frames")
        return Video(path, _FOLDER_FPS, len(files), files, say)
    if animations.is_animation(path):
        count, fps = animations.length(path)
        return Video(path, fps, count, (), say)
    with _opened(path) as (container, stream):
        if next(_Decoder(container, stream).images(), None) is None:
            raise LDISError(f"{path}: no frame of it can be decoded; fetch or save it again")
        rate = stream.average_rate or stream.guessed_rate
        return Video(path, float(rate or _FOLDER_FPS), stream.frames or None, (), say)


@contextlib.contextmanager
def video_writer(path: StrPath, fps: float) -> Iterator[Callable[..., None]]:
    """Writes H.264 in MP4, which browsers and phones play; whole or not at all.

    Yields:
        what adds a frame, uint8 [H, W, 3], and scales it to the first one's size; a second argument says how many
        seconds it shows, 1 / ``fps`` unless given. Odd sides lose their last line of pixels.

    Raises:
        LDISError: PyAV is not installed, or no frame came.
    """
    av = _pyav()
    with atomic_write(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        rate = Fraction(min(max(fps, 1), 1000)).limit_denominator(1001)  # for the encoder; frames have times
        # Without B-frames the file's own clock is that of the frames, to the end of the last one.
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "bf": "0"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.flags |= av.codec.context.Flags.frame_duration
        ticks = 0

        def write(image: np.ndarray, seconds: float = 1 / fps) -> None:
            nonlocal ticks
            image = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
            if not ticks:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, _TICKS), ticks
            frame.duration = max(1, round(min(seconds, _LONGEST) * _TICKS))
            ticks += frame.duration
            container.mux(stream.encode(frame))

        yield write
        if not ticks:
            raise LDISError(f"{path}: a video needs a frame, and none came")
        container.mux(stream.encode())


class _Decoder:
    """Decodes a video stream as far as there are packets, past those that are damaged, and counts them."""

    def __init__(self, container: Any, stream: Any):
        self._container, self._stream = container, stream
        stream.thread_type = "SLICE"  # threads of frames would lose more of them to an error
        self._came = self._broken = self._in_part = self._samples = 0
        self._interlaced, self._end = False, 0.0

    def images(self) -> Iterator[tuple[np.ndarray, float | None, float]]:
        """Each frame, upright, with the second it begins at, where that is known, and those it says to last, or 0."""
        waiting: list[tuple[float, int, tuple[np.ndarray, float | None, float]]] = []
        for i, image in enumerate(self._images()):
            heapq.heappush(waiting, (image[1] or 0.0, i, image))
            if len(waiting) > (_LATE if self._broken else 0):
                yield heapq.heappop(waiting)[2]
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _images(self) -> Iterator[tuple[np.ndarray, float | None, float]]:
        base = float(self._stream.time_base or 0)
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except _pyav().FFmpegError:
                self._broken += 1
                continue
            for frame in frames:
                self._came += 1
                self._in_part += frame.is_corrupt
                self._interlaced |= frame.interlaced_frame
                yield _upright(frame), None if frame.pts is None else frame.pts * base, frame.duration * base

    def losses(self) -> str:
        """The missing frames, in words; empty if none are."""
        lost, container, stream = self._broken, self._container, self._stream
        rate = float(stream.average_rate or stream.guessed_rate or _FOLDER_FPS)
        # In microseconds, both; of all streams, as the other one may be longer.
        ends_at = ((container.start_time or 0) + (container.duration or 0)) / 1e6
        early = ends_at - self._end > (1.5 / rate if stream.frames else max(1.5 / rate, 0.5))
        edited = "mov" in container.format.name  # where a file may hold frames that are not to be shown
        if early or (stream.frames > self._samples and not edited):
            lost = max(lost, (stream.frames or round(container.duration / 1e6 * rate)) - self._came)
        elif edited and not self._interlaced:  # a sample there is a frame, or a field
            lost = max(lost, self._samples - self._came)
        about = "about " if early and not stream.frames else ""
        words = [f"{about}{lost} of {self._came + lost} frames are missing"] if lost else []
        words += [f"{self._in_part} of {self._came} frames are damaged in part"] if self._in_part else []
        return ", ".join(words)

    def _packets(self) -> Iterator[Any]:
        """The stream's, and None to empty the decoder."""
        with contextlib.suppress(_pyav().FFmpegError):  # then the file ends here, as one that is cut off does
            for packet in self._container.demux():
                time = packet.dts if packet.pts is None else packet.pts
                if time is not None and packet.stream.type in ("video", "audio"):
                    self._end = max(self._end, float((time + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index == self._stream.index and time is not None:
                    self._samples += not packet.is_discard
                    if packet.size:  # of a frame that is the one before again there is nothing
                        yield packet
        yield None


def _upright(frame: Any) -> np.ndarray:
    """Turned and mirrored by its display matrix [[a, b], [c, d]], which takes x to ax + cy and y to bx + dy."""
    image = frame.to_ndarray(format="rgb24")
    try:
        a, b, _, c, d = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)[:5].tolist()
    except (KeyError, ValueError):  # there is none, or side data that PyAV does not know
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its video stream."""
    av = _pyav()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream and stream.codec_context:  # there is none of a codec that FFmpeg does not know
                stream.codec_context.options = {"max_pixels": str(_MOST_PIXELS)}
                yield container, stream
                return
        why = "holds no video"
    except (av.FFmpegError, UnicodeEncodeError) as error:  # FFmpeg takes names in UTF-8 only
        why = f"not a video that FFmpeg can read ({error}); fetch or save it again, or convert it to MP4"
    raise LDISError(f"{path}: {why}")


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise LDISError("video files need PyAV: pip install -e '.[video]', or use a folder of frames") from None
    return av
