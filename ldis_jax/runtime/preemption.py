"""SIGTERM, which announces the end of a preemptible machine: all processes stop at the same step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldis_jax.runtime import sharding


@contextlib.contextmanager
def ended_at_once(status: int) -> Iterator[None]:
    """SIGTERM in the body ends the process with ``status`` there and then, where :class:`Preemption` does not note it.

    Before the first step there is nothing to save, and what a run waits for, other hosts or a compilation, may take
    longer than the time until SIGKILL.
    """
    previous = signal.signal(signal.SIGTERM, lambda *_: os._exit(status))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class PreemptedError(Exception):
    """All processes have agreed to stop; the training state is whole."""


class Preemption:
    """Notes SIGTERM while it is used in a ``with``.

    JAX's own preemption service knows training steps only, not the batches of an evaluation, and Orbax asks it about
    old steps from a thread, which may move the step it has agreed on into the past.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        """The processes that must agree are those of ``mesh``."""
        self._received = False
        self._pending: jax.Array | None = None
        self._sharding = sharding.batch_sharding(mesh)
        self._max = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))

    def __enter__(self) -> Preemption:
        self._main = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be handled
        if self._main:
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, *_: Any) -> None:
        self._received = True

    def check(self) -> None:
        """Every process calls it equally often; raises :class:`PreemptedError` in the same call on all.

        With several processes it tells what was known at the call before, so that none waits for the device.
        """
        if jax.process_count() == 1:
            agreed: Any = self._received
        else:
            agreed = self._pending
            received = np.full(jax.local_device_count(), self._received, np.int32)
            self._pending = self._max(jax.make_array_from_process_local_data(self._sharding, received))
        if agreed is not None and bool(agreed):
            raise PreemptedError
