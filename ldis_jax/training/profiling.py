"""A trace of a few training steps, for xprof or Perfetto."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax

from ldis_jax.errors import LDISError

_STEPS = 3  # where only the first is given


class Profiler:
    """Traces the steps of ``config.profile``; use it in a ``with``."""

    def __init__(self, steps: str, folder: Path):
        """Binds the steps.

        Args:
            steps: "first:last", as the log counts them, or "first", which is three steps; "" traces nothing.
            folder: each process writes ``plugins/profile/<time>/<host>.xplane.pb`` in it.

        Raises:
            LDISError: ``steps`` is none of these.
        """
        match = re.fullmatch(r"(\d+)(?::(\d+))?", steps, re.ASCII) if steps else None
        self._first = int(match[1]) if match else 1
        self._last = int(match[2] or self._first + _STEPS - 1) if match else 0
        if steps and not (match and 1 <= self._first <= self._last):
            raise LDISError(f"config.profile={steps!r}: must be a step, or 'first:last'; the first step is 1")
        self._folder, self._active = folder, False

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._active:
            jax.profiler.stop_trace()

    def before(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Call it before a step is handed to the device, and do that in the context it gives."""
        if self._first <= step <= self._last and not self._active:
            jax.profiler.start_trace(str(self._folder))
            self._active = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after(self, step: int, result: Any) -> None:
        """Call it with what the step will give; waits for it at the end of the trace."""
        if self._active and step >= self._last:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self._active = False
