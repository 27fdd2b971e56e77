import logging
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from ldis_jax import LDISError
from ldis_jax.media import videos
from ldis_jax.media.images import read_image, write_png
from ldis_jax.media.videos import read_video, video_writer
from tests.helpers import CASES, needs_cases


def moving_square(count=12, height=48, width=64):
    frames = np.full((count, height, width, 3), 40, np.uint8)
    for i, frame in enumerate(frames):
        frame[10:30, 2 + 3 * i : 22 + 3 * i] = (200, 60, 90)
    return frames


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "moving.mp4"
    with video_writer(path, fps=12.5) as write:
        for frame in moving_square():
            write(frame)
    return path


@pytest.fixture
def read(caplog):
    """A video's frames, and what has been said about them."""

    def frames_and_lines(source):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ldis_jax"):
            frames = list(read_video(source).frames())
        return frames, [record.getMessage() for record in caplog.records]

    return frames_and_lines


def write_film(path, images, rate=10):
    """JPEGs in a container, each of its own size."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.pix_fmt, stream.height, stream.width = "yuvj420p", *images[0].shape[:2]
        for i, image in enumerate(images):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.pix_fmt, encoder.height, encoder.width = "yuvj420p", *image.shape[:2]
            encoder.time_base = Fraction(1, rate)
            for packet in [*encoder.encode(av.VideoFrame.from_ndarray(image, format="rgb24")), *encoder.encode()]:
                packet.pts = packet.dts = i
                packet.time_base, packet.stream = Fraction(1, rate), stream
                container.mux(packet)


def spoil(path, spoiled, numbers):
    """Copies a file with packets in which nothing is right."""
    import av

    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux() if packet.size]
    for position, size in (places[i] for i in numbers):
        data[position : position + size] = b"\xff" * size
    spoiled.write_bytes(data)
    return spoiled


def close(a, b):
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 4  # codecs lose detail, but not the image


def test_read_video_reads_what_video_writer_writes(video):
    read = read_video(video)
    assert (read.fps, read.num_frames) == (12.5, 12)
    frames = np.stack(list(read))
    assert frames.shape == (12, 48, 64, 3) and frames.dtype == np.uint8
    assert close(frames, moving_square())
    assert len(list(read)) == 12, "it can be read twice"


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, -1), lambda x: x[::-1]),
        ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda x: x.swapaxes(0, 1)[::-1, ::-1]),
    ],
)
def test_read_video_turns_frames_as_their_display_matrix_says(video, tmp_path, matrix, shown):
    a, b, c, d = (value << 16 for value in matrix)
    data = video.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # ISO 14496-12: the track's matrix, 16.16 fixed point
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data[:at] + np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes() + data[at + 36 :])
    np.testing.assert_array_equal(next(iter(read_video(turned))), shown(next(iter(read_video(video)))))


def test_video_writer_evens_odd_sides_and_read_video_reads_folders(tmp_path):
    with video_writer(tmp_path / "odd.mp4", fps=10) as write:
        write(np.zeros((33, 49, 3), np.uint8))
        write(np.zeros((20, 30, 3), np.uint8))
    assert [frame.shape for frame in read_video(tmp_path / "odd.mp4")] == [(32, 48, 3)] * 2, "the first one's size"
    for i, frame in enumerate(moving_square(3)):
        write_png(tmp_path / "frames" / f"{i:03}.png", frame)
    (tmp_path / "frames" / "notes.txt").write_text("no image")
    read = read_video(tmp_path / "frames")
    assert read.num_frames == 3
    np.testing.assert_array_equal(np.stack(list(read)), moving_square(3))


def test_read_video_sorts_frames_of_a_folder_by_their_numbers(tmp_path, read):
    for i, frame in enumerate(moving_square(), 1):
        write_png(tmp_path / f"cut_{i}.png", frame)
    (tmp_path / "._cut_1.png").write_bytes(b"Mac OS X")
    (tmp_path / ".hidden.png").write_bytes((tmp_path / "cut_1.png").read_bytes())
    (tmp_path / "cut_0.png").mkdir()
    frames, lines = read(tmp_path)
    assert [frame.name for frame in frames] == [f"cut_{i}" for i in range(1, 13)] and not lines
    np.testing.assert_array_equal(np.stack([frame.image for frame in frames]), moving_square())


def test_read_video_takes_frames_one_by_one_as_given(tmp_path, read):
    for i, frame in enumerate(moving_square(3)):
        write_png(tmp_path / f"{i % 2}/{i}.png", frame)
    files = [tmp_path / "0/2.png", tmp_path / "1/1.png"]
    frames, _ = read(files)
    assert [frame.name for frame in frames] == ["2", "1"]
    frames, _ = read([files[0], *files])  # two of a name
    assert [frame.name for frame in frames] == ["000000", "000001", "000002"]
    np.testing.assert_array_equal(frames[1].image, moving_square(3)[2])


def test_read_video_passes_over_bad_packets_and_counts_them(video, tmp_path, read):
    frames, lines = read(spoil(video, tmp_path / "hole.mp4", [4, 5]))
    assert len(frames) == 10 and lines == [
        f"{tmp_path}/hole.mp4: 2 of 12 frames are missing; the file is damaged or cut off"
    ]
    assert sum(frame.seconds for frame in frames) == pytest.approx(12 / 12.5), "the others keep their times"
    with pytest.raises(LDISError, match="no frame of it can be decoded"):
        read_video(spoil(video, tmp_path / "nothing.mp4", range(12)))


def test_read_video_keeps_and_counts_frames_that_are_damaged_in_part(video, tmp_path, read):
    data, spoiled = bytearray(video.read_bytes()), spoil(video, tmp_path / "a.mp4", [5]).read_bytes()
    first = next(i for i, (a, b) in enumerate(zip(data, spoiled, strict=True)) if a != b)
    data[first + 14 : first + 20] = b"\xff" * 6  # behind its headers
    (tmp_path / "b.mp4").write_bytes(data)
    frames, lines = read(tmp_path / "b.mp4")
    assert len(frames) == 12
    assert lines == [f"{tmp_path}/b.mp4: 1 of 12 frames are damaged in part; the file is damaged or cut off"]


@pytest.mark.parametrize("ending", ["avi", "mkv", "mov", "gif"])
def test_read_video_gives_what_is_there_of_a_file_that_is_cut_off(tmp_path, read, ending):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    images = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    if ending == "gif":
        first, *others = map(Image.fromarray, images)
        first.save(whole, save_all=True, append_images=others, duration=100)
    else:
        write_film(whole, images)
    assert [len(part) for part in read(whole)] == [20, 0]
    data = whole.read_bytes()
    if ending == "mov":  # its table of frames is at the end
        return
    cut.write_bytes(data[: len(data) // 2])
    frames, (line,) = read(cut)
    lost = {
        "avi": f"{20 - len(frames)} of 20 frames are missing",
        "mkv": f"about {20 - len(frames)} of 20 frames are missing",
        "gif": f"ends after {len(frames)} frames",
    }
    assert 7 < len(frames) < 13 and line == f"{cut}: {lost[ending]}; the file is damaged or cut off"


def test_read_video_keeps_the_times_of_frames(tmp_path, read):
    seconds = [0.1, 0.5, 0.04, 0.25]
    with video_writer(tmp_path / "a.mp4", fps=25) as write:
        for frame, shown in zip(moving_square(4), seconds, strict=True):
            write(frame, shown)
    frames, lines = read(tmp_path / "a.mp4")
    assert [frame.seconds for frame in frames] == pytest.approx(seconds, abs=1e-4) and not lines


def test_read_video_fits_frames_of_other_sizes_to_the_first(tmp_path, read):
    large, small = moving_square(1)[0], moving_square(1)[0][::2, ::2]
    write_film(tmp_path / "a.mkv", [large, small, large, small])
    frames, lines = read(tmp_path / "a.mkv")
    assert len(frames) == 4 and all(close(frame.image, large) for frame in frames)
    where = f"{tmp_path}/a.mkv: frame 000001 is 32x24, the first one 64x48"
    assert lines == [f"{where}; all frames are fitted to the first one's size"]
    write_png(tmp_path / "1.png", small)
    write_png(tmp_path / "2.png", large)
    frames, lines = read(tmp_path)
    assert [frame.image.shape for frame in frames] == [(24, 32, 3)] * 2 and len(lines) == 1


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "avif"])
def test_read_video_reads_an_animation(tmp_path, read, caplog, ending):
    path = tmp_path / f"clip.{ending}"
    first, *others = map(Image.fromarray, moving_square(3))
    first.save(path, save_all=True, append_images=others, duration=[100, 500, 250])
    frames, lines = read(path.rename(tmp_path / "clip"))  # whatever its name
    assert [frame.seconds for frame in frames] == pytest.approx([0.1, 0.5, 0.25]) and not lines
    assert all(close(frame.image, image) for frame, image in zip(frames, moving_square(3), strict=True))
    for _ in range(2):
        assert close(read_image(tmp_path / "clip"), moving_square(1)[0])
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/clip: holds several images; the first one is used"
    ]


def test_video_writer_leaves_nothing_of_a_failed_video(tmp_path):
    with pytest.raises(RuntimeError, match="midway"), video_writer(tmp_path / "a.mp4", fps=10) as write:
        write(np.zeros((32, 32, 3), np.uint8))
        raise RuntimeError("midway")
    with pytest.raises(LDISError, match="none came"), video_writer(tmp_path / "a.mp4", fps=10):
        pass
    assert not list(tmp_path.iterdir())


def test_read_video_refuses_bad_videos(tmp_path, video):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-400])  # which has its table of frames at the end
    for path, message in [
        ("no.mp4", "No such file"),
        ("text.mp4", "not a video"),
        ("empty", "no images"),
        ("cut.mp4", "not a video"),
    ]:
        with pytest.raises(LDISError, match=message):
            list(read_video(tmp_path / path))


@needs_cases
def test_read_video_reads_videos_as_people_have_them(read):
    frames, (line,) = read(CASES / "hole.mp4")
    assert len(frames) == 57 and "3 of 60 frames are missing" in line
    frames, (line,) = read(CASES / "cut.avi")
    assert len(frames) == 2 and "58 of 60 frames are missing" in line
    with pytest.raises(LDISError):
        read(CASES / "none.avi")
    frames, (line,) = read(CASES / "resized.mkv")
    assert len({frame.image.shape for frame in frames}) == 1 and "fitted" in line
    frames, lines = read(CASES / "clip.gif")
    assert len(frames) > 1 and not lines
    for folder in ("frames", "framesmac"):
        frames, lines = read(CASES / folder)
        assert [int(frame.name) for frame in frames] == list(range(1, 13)) and not lines
    frames, lines = read(CASES / "endings")
    assert [frame.name for frame in frames] == list("abcdef") and len(lines) <= 1


def test_read_video_does_not_decode_frames_that_are_too_large(tmp_path, video, monkeypatch):
    monkeypatch.setattr(videos, "_MOST_PIXELS", 48 * 64 - 1)
    with pytest.raises(LDISError, match="no frame of it can be decoded"):
        read_video(video)


def test_read_video_takes_metadata_that_is_not_utf8(tmp_path):
    import av

    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "Malerei"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in moving_square(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "a.avi").read_bytes()
    assert b"Malerei" in content
    (tmp_path / "a.avi").write_bytes(content.replace(b"Malerei", b"M\xe4lerei"))
    assert len(list(read_video(tmp_path / "a.avi"))) == 3


def test_read_video_refuses_a_codec_that_nobody_knows(tmp_path):
    write_film(tmp_path / "a.avi", list(moving_square(3)))
    content = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(content.replace(b"MJPG", b"ZZZZ"))
    with pytest.raises(LDISError, match=r"holds no video|not a video|no frame of it"):
        list(read_video(tmp_path / "a.avi"))
