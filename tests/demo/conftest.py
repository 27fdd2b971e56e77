import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from ldis_jax.media.videos import video_writer
from tests.compile_flags import QUICK
from tests.helpers import ROOT


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


def is_up(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.fixture(scope="module")
def server(micro_folder_ldisn, tmp_path_factory):
    """The address of a server of LDIS-n that takes files up to 0.2 MB and images up to 0.07 megapixels.

    Its model's card says that it knows scenes, so that those are the examples.
    """
    model = tmp_path_factory.mktemp("scenes") / "model"
    shutil.copytree(micro_folder_ldisn, model)
    (model / "README.md").write_text("---\ntraining_steps: 1\nknows:\n- painted scenes\n---\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ldis_jax.demo", f"--model={model}", f"--port={port}"]
    limits = ["--max_upload_mb=0.2", "--max_megapixels=0.07"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK}
    with subprocess.Popen([*command, *limits], cwd=ROOT, env=environment) as process:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        try:
            while not is_up(url):
                assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
