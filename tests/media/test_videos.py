import numpy as np
import pytest

from ldis_jax import LDISError
from ldis_jax.media.images import write_png
from ldis_jax.media.videos import read_video, video_writer


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


def test_what_is_written_is_read(video):
    read = read_video(video)
    assert (read.fps, read.num_frames) == (12.5, 12)
    frames = np.stack(list(read))
    assert frames.shape == (12, 48, 64, 3) and frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - moving_square()).mean() < 4, "H.264 loses colour detail, but not the picture"
    assert len(list(read)) == 12, "it can be read twice"


def test_a_turned_video_comes_upright(video, tmp_path):
    import av

    turned = tmp_path / "turned.mp4"
    with av.open(str(video)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = turned.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # ISO 14496-12: the track's matrix, 16.16 fixed point
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30], ">i4").tobytes()
    turned.write_bytes(data[:at] + quarter + data[at + 36 :])
    frame = next(iter(read_video(turned)))
    assert frame.shape == (64, 48, 3)
    np.testing.assert_array_equal(frame, np.rot90(next(iter(read_video(video))), -1))


def test_odd_sides_and_folders_of_frames(tmp_path):
    with video_writer(tmp_path / "odd.mp4", fps=10) as write:
        write(np.zeros((33, 49, 3), np.uint8))
        write(np.zeros((20, 30, 3), np.uint8))
    assert [frame.shape for frame in read_video(tmp_path / "odd.mp4")] == [(32, 48, 3)] * 2, "the first one's size"
    for i, frame in enumerate(moving_square(3)):
        write_png(tmp_path / "frames" / f"{i:03}.png", frame)
    (tmp_path / "frames" / "notes.txt").write_text("no picture")
    read = read_video(tmp_path / "frames")
    assert read.num_frames == 3
    np.testing.assert_array_equal(np.stack(list(read)), moving_square(3))


def test_a_failed_video_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="midway"), video_writer(tmp_path / "a.mp4", fps=10) as write:
        write(np.zeros((32, 32, 3), np.uint8))
        raise RuntimeError("midway")
    with pytest.raises(LDISError, match="none came"), video_writer(tmp_path / "a.mp4", fps=10):
        pass
    assert not list(tmp_path.iterdir())


def test_bad_videos(tmp_path, video):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty").mkdir()
    for path, message in [("no.mp4", "No such file"), ("text.mp4", "not a video"), ("empty", "no pictures")]:
        with pytest.raises(LDISError, match=message):
            read_video(tmp_path / path)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:-400])
    with pytest.raises(LDISError, match="not a video"):
        list(read_video(cut))
