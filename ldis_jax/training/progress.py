"""Where a run is, where its wall time went, and a watchdog that prints stacks when nothing moves."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax

from ldis_jax.errors import LDISError
from ldis_jax.support.files import atomic_write

# What a process does; all its wall time is in one of them.
START, DATA, STEP, CHECKPOINT = "start-up", "data", "step", "checkpoint"
EVALUATION, EXPORT = "evaluation", "export"


class Progress:
    """The clock of one process, from its making on; use it in a ``with``, which ends the watchdog."""

    def __init__(self, folder: Path, silence: float):
        """Starts in ``START``.

        Args:
            folder: gets ``process_<index>.txt`` when nothing moves; all processes see the same folder.
            silence: seconds without progress after which the watchdog reports, and between its reports; 0 turns it off.
        """
        self._folder, self._silence = folder, silence
        self._seconds = dict.fromkeys((START, DATA, STEP, CHECKPOINT, EVALUATION, EXPORT), 0.0)
        self._steps = 0  # begun in ``STEP``
        self._phase, self._step, self._since = START, 0, time.monotonic()
        self._run_started, self._earlier = time.time(), 0.0
        self._logged = (0, 0.0, 0.0)  # steps, seconds of data and of steps when rates were asked for last
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Progress:
        if self._silence:
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        if self._silence:
            self._thread.join()

    def enter(self, phase: str, step: int) -> None:
        """The phase that begins now, and the steps done."""
        self._book()
        self._phase, self._step = phase, step
        self._steps += phase == STEP

    def overlap(self, seconds: float) -> None:
        """So much of the last wait for data passed while the device was still at a step."""
        self._seconds[DATA] -= seconds
        self._seconds[STEP] += seconds

    def state(self) -> dict[str, float]:
        """The state for a checkpoint, JSON-able."""
        self._book()
        return {"run_started": self._run_started, "step_seconds": self._earlier + self._seconds[STEP]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint; one of an older version does not know the run's start."""
        self._run_started = state.get("run_started", self._run_started)
        self._earlier = state.get("step_seconds", 0.0)

    def rates(self, batch_size: int) -> dict[str, float]:
        """Figures since they were asked for last; those that start-up leaves without a measured step are left out.

        Returns:
            ``steps_per_second`` and ``episodes_per_second`` of the loop, evaluation and checkpoints left out;
            ``data_wait``, the share of the loop's time in which the device had nothing to do for want of data;
            ``goodput``, the share of the wall time since the run first started that went into steps that count: not
            into start-up, data, evaluation, checkpoints, steps lost in a crash, or the time between runs.
        """
        result = {"goodput": self.state()["step_seconds"] / max(time.time() - self._run_started, 1e-9)}
        now = (self._steps, self._seconds[DATA], self._seconds[STEP])
        steps, data, computing = (new - old for new, old in zip(now, self._logged, strict=True))
        self._logged = now
        if steps:
            rate = steps / (data + computing)
            result |= {"steps_per_second": rate, "episodes_per_second": rate * batch_size}
            result["data_wait"] = data / (data + computing)
        return result

    def _book(self) -> None:
        now = time.monotonic()
        self._seconds[self._phase] += now - self._since
        self._since = now

    def _watch(self) -> None:
        spoke = self._since
        while not self._ended.wait(self._silence / 4):
            if time.monotonic() - max(spoke, self._since) >= self._silence:
                self._speak()
                if jax.process_index() == 0:
                    self._ended.wait(self._silence / 4)  # until the others have looked at their clocks
                    self._gather()
                spoke = time.monotonic()

    def _path(self, process: int) -> Path:
        return self._folder / f"process_{process}.txt"

    def _speak(self) -> None:
        """One line about this process and the stacks of its threads, on standard error and in the folder."""
        index, count = jax.process_index(), jax.process_count()
        line = (
            f"watchdog: process {index} of {count} ({socket.gethostname()}, pid {os.getpid()}): nothing has moved for "
            f"{time.monotonic() - self._since:.0f} s, after {self._step} steps, in phase {self._phase!r}"
        )
        print(line, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(2)
        path = self._path(index)
        with contextlib.suppress(LDISError), atomic_write(path) as temporary, temporary.open("w") as file:
            print(line, file=file, flush=True)
            faulthandler.dump_traceback(file)

    def _gather(self) -> None:
        """All processes' lines in one place, for the reader of the first one's output."""
        for index in range(1, jax.process_count()):
            path = self._path(index)
            if path.is_file() and time.time() - path.stat().st_mtime < 2 * self._silence:
                line = path.read_text(encoding="utf-8").partition("\n")[0]
            else:
                line = f"watchdog: process {index}: no word; it has ended, or moves"
            print(line, file=sys.stderr, flush=True)
