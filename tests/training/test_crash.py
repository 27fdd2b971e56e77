"""Training as a process of its own that is killed, stopped, or becomes two, and goes on; see tools/kill_test.py."""

import shutil
import signal
import time

import pytest

from ldis_jax.training.checkpoint import saved_steps
from tools.kill_test import Run, kill_test
from tools.mesh_test import deviations

pytestmark = pytest.mark.timeout(1800)  # several launches of Python and JAX, on a machine that may be busy
LATER = ("15", "18", "21", "24", "27", "30", "33", "36", "39", "40")


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A run of 40 steps on two devices that nobody touches."""
    folder = tmp_path_factory.mktemp("crash")
    run = Run(folder / "untouched", folder / "cache", "--config.train_steps=40", "--config.keep_checkpoints=20")
    run.finish()
    return run


def test_main_comes_to_the_same_bits_after_kills(truth):
    kills, different = kill_test(truth, kills=3, each=3, seed=1)
    assert kills == 3 and different == []


def test_main_goes_on_with_two_processes_and_then_with_one(truth):
    """Two go on where one was cut off and left a damaged checkpoint; SIGTERM for the second of them stops both."""
    run = truth.beside("one_two_one")
    shutil.copytree(truth.workdir, run.workdir, ignore=shutil.ignore_patterns(*LATER, "model", "report.json"))
    shutil.copy(truth.log, run.log)
    checkpoints = run.workdir / "checkpoints"
    (checkpoints / "12" / "state" / "_METADATA").unlink()

    processes = run.start_two()
    while not (checkpoints / "12.damaged").is_dir() or run.steps_logged() < 10:
        assert all(process.poll() is None for process in processes), run.output.read_text()[-3000:]
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in processes] == [0, 0], run.output.read_text()[-3000:]
    stopped = saved_steps(checkpoints)[-1]
    assert 10 <= stopped < 40 and (checkpoints / "12.damaged").is_dir() and not (run.workdir / "report.json").exists()

    run.finish()
    output = run.output.read_text()
    assert output.count(f"SIGTERM: stopped after step {stopped};") == output.count("12: damaged (") == 2
    assert "Traceback" not in output
    assert {line.split()[1] for line in run.log.read_text().splitlines()} == {"0", "1"}
    assert run.batches() == truth.batches()
    assert run.losses().keys() == truth.losses().keys()
    assert all(value < 1e-4 for value in deviations(run, truth).values())


def test_main_shares_parameters_between_two_processes_and_goes_on_with_one(truth):
    """Each holds half of every kernel, of its moments and of every checkpoint; one process reads them all."""
    run = truth.beside("shared")
    run.finish("--config.mesh.fsdp=2", processes=2)
    for folder in ("model", "checkpoints/40", "checkpoints/39"):  # as if it had been killed after step 36
        shutil.rmtree(run.workdir / folder)
    run.finish()
    assert saved_steps(run.workdir / "checkpoints")[-1] == 40 and (run.workdir / "model").is_dir()
    assert run.batches() == truth.batches()
    assert run.losses().keys() == truth.losses().keys()
    assert all(value < 1e-4 for value in deviations(run, truth).values())
