import numpy as np
import pytest

from ldis_jax.media.videos import video_writer


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A video of six frames of 48x32 pixels, in which a bright square moves."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with video_writer(path, 5) as write:
        for i in range(6):
            frame = np.full((32, 48, 3), 40, np.uint8)
            frame[8:20, 4 + 3 * i : 16 + 3 * i] = (230, 60, 60)
            write(frame)
    return path
