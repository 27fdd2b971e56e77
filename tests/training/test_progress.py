"""The clock of a run, and the watchdog."""

import os
import re
import time

import jax
import pytest

from ldis_jax.training.progress import CHECKPOINT, DATA, START, STEP, Progress


def test_progress_measures_rates_and_goodput(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "time", lambda: 1000 + now)
    with Progress(tmp_path, 0) as progress:
        progress.set_state({"run_started": 1000.0, "step_seconds": 6.0})  # a run before: 100 s, 6 of them in steps
        for phase, seconds in [(START, 10), (DATA, 1), (STEP, 3), (DATA, 2), (STEP, 2), (CHECKPOINT, 5)]:
            progress.enter(phase, 0)
            now += seconds
        progress.overlap(1.0)
        rates = progress.rates(16)
        assert rates == {
            "goodput": pytest.approx(12 / 123),
            "steps_per_second": 0.25,
            "episodes_per_second": 4.0,
            "data_wait": 0.25,
        }
        assert progress.rates(16) == {"goodput": pytest.approx(12 / 123)}
        assert progress.state() == {"run_started": 1000.0, "step_seconds": 12.0}


def test_progress_watchdog_says_where_a_process_has_stopped(tmp_path, capfd):
    with Progress(tmp_path / "stalled", 0.2) as progress:
        progress.enter(DATA, 7)
        deadline = time.monotonic() + 20
        while not (tmp_path / "stalled" / "process_0.txt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    line = r"watchdog: process 0 of 1 \(.*, pid \d+\): nothing has moved for 0 s, after 7 steps, in phase 'data'"
    for text in (capfd.readouterr().err, (tmp_path / "stalled" / "process_0.txt").read_text()):
        assert re.match(line, text) and "test_progress.py" in text  # the stacks of its threads


def test_progress_of_the_first_process_repeats_what_the_others_say(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    (tmp_path / "process_1.txt").write_text("watchdog: process 1 of 3: in phase 'step'\nFile train.py, line 1\n")
    os.utime(tmp_path / "process_1.txt", (time.time() + 60,) * 2)  # as if it spoke all the time
    with Progress(tmp_path, 0.4) as progress:
        progress.enter(DATA, 7)
        time.sleep(3.0)
    said = capfd.readouterr().err.splitlines()
    assert "watchdog: process 1 of 3: in phase 'step'" in said and "File train.py, line 1" not in said
    assert "watchdog: process 2: no word; it has ended, or moves" in said


def test_progress_watchdog_is_silent_while_something_moves(tmp_path, capfd):
    with Progress(tmp_path, 1.5) as progress:
        for step in range(12):
            progress.enter(STEP, step)
            time.sleep(0.2)
    assert capfd.readouterr().err == "" and not list(tmp_path.iterdir())
