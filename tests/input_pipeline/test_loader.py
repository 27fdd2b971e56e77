import json
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import Episode, TrainEpisodes, TrainLoader, VOCFolder


@pytest.fixture
def episodes(voc_root):
    return TrainEpisodes(VOCFolder(voc_root, "train"), num_shots=1, image_size=16, seed=5, length=42)


def stacked(episodes, indices):
    items = [episodes[i] for i in indices]
    return {k: np.stack([item[k] for item in items]) for k in items[0]}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for k in a:
        assert a[k].dtype == b[k].dtype
        np.testing.assert_array_equal(a[k], b[k], err_msg=k)


def test_train_loader_batches_are_the_episodes_in_order(episodes):
    with TrainLoader(episodes, 4) as loader:
        assert len(loader) == 10  # 42 // 4
        for step, batch in enumerate(loader):
            assert_equal(batch, stacked(episodes, range(4 * step, 4 * step + 4)))
        assert step == 9 and loader.get_state() == {"step": 10}


@pytest.mark.parametrize("shares", [((0, 1, 2), (3, 4, 5)), ((0, 1), (2, 3), (4, 5)), ((0, 3, 4), (1, 2, 5))])
def test_train_loader_shares_global_batches_among_processes(episodes, shares):
    with TrainLoader(episodes, 6) as whole:
        expected = list(whole)
    for rows in shares:
        with TrainLoader(episodes, 6, rows=rows) as loader:
            found = list(loader)
        assert len(found) == len(expected) == 7
        for part, batch in zip(found, expected, strict=True):
            assert_equal(part, {name: array[list(rows)] for name, array in batch.items()})


def test_train_loader_is_unchanged_by_workers_and_resumes_exactly(episodes):
    with TrainLoader(episodes, 4) as threads:
        expected = list(threads)
    with TrainLoader(episodes, 4, num_workers=2) as workers:
        for step in range(3):
            assert_equal(next(workers), expected[step])
        state = json.loads(json.dumps(workers.get_state()))
        workers.set_state({"step": 8})  # runs to the end, a slice shorter than the workers' buffers
        rest = list(workers)
        assert len(rest) == 2
        for step, batch in enumerate(rest):
            assert_equal(batch, expected[8 + step])

    with TrainLoader(episodes, 4) as resumed:  # other workers than the state came from
        resumed.set_state(state)
        assert resumed.get_state() == state
        rest = list(resumed)
    assert len(rest) == 7
    for step, batch in enumerate(rest):
        assert_equal(batch, expected[3 + step])


def test_train_loader_set_state_takes_steps_of_the_run_only(episodes):
    with TrainLoader(episodes, 4) as loader:
        loader.set_state({"step": 10})
        assert list(loader) == []
        loader.set_state({"step": 0})
        assert_equal(next(loader), stacked(episodes, range(4)))
        for step in (-1, 11):
            with pytest.raises(LDISError, match="of a run of 10 steps"):
                loader.set_state({"step": step})


class Counting:
    num_images = 1

    def __init__(self):
        self.count, self.lock = 0, threading.Lock()

    def draw(self, rng, num_shots):
        with self.lock:
            self.count += 1
        image, mask = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
        return Episode(image, mask, (image,), (mask,), 1, "c", "q")


def test_train_loader_prefetch_is_bounded():
    source = Counting()
    with TrainLoader(TrainEpisodes(source, 1, 8, 0, 10_000), 8) as loader:
        next(loader)
        next(loader)
    assert source.count <= 8 * 8


class Broken:
    num_images = 1

    def draw(self, rng, num_shots):
        raise LDISError("a.png: damaged image")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_train_loader_passes_on_a_user_error(num_workers):
    with (
        TrainLoader(TrainEpisodes(Broken(), 1, 8, 0, 8), 2, num_workers=num_workers) as loader,
        pytest.raises(LDISError) as info,
    ):
        next(loader)
    assert str(info.value) == "a.png: damaged image"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_train_loader_left_open_lets_the_interpreter_exit(voc_root, tmp_path, num_workers):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from ldis_jax.input_pipeline import TrainEpisodes, TrainLoader, VOCFolder

        if __name__ == "__main__":
            episodes = TrainEpisodes(VOCFolder({str(voc_root)!r}, "train"), 1, 16, 0, 10_000)
            loader = TrainLoader(episodes, 4, num_workers={num_workers})
            next(loader)
            print("done")
        """)
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "done\n"
