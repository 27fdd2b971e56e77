"""Joining the processes of a run; what they do together is JAX's."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future

import jax

from ldis_jax.errors import LDISError, TryAgainError

_SILENCE = 300  # seconds


def join() -> None:
    """Joins the other processes, before the first use of a device.

    JAX finds them by itself on TPU slices, under SLURM and Open MPI, and in Kubernetes jobs. Elsewhere
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say where they are; JAX
    itself reads only the first.

    Raises:
        LDISError: they cannot be found.
        TryAgainError: they do not answer within five minutes.
    """
    jax.config.update("jax_enable_preemption_service", False)  # see preemption.py; it would take SIGTERM for itself
    try:
        count, index = (
            int(text) if (text := os.environ.get(name)) else None for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
        _join(count, index, _SILENCE)
    except (RuntimeError, ValueError, IndexError, TimeoutError) as error:  # an address without a port
        words = f"no answer in {_SILENCE} s" if isinstance(error, TimeoutError) else error
        silent = re.match("no answer|DEADLINE_EXCEEDED|UNAVAILABLE", str(words))
        raise (TryAgainError if silent else LDISError)(
            f"--multihost: cannot join the other hosts ({words}); see launch/README.md"
        ) from None


def _join(count: int | None, index: int | None, seconds: int) -> None:
    """``jax.distributed.initialize`` in a thread: signals are handled meanwhile, and it is left when it takes too long.

    At a timeout of its own JAX aborts the process with a page of stacks.
    """
    joined: Future[None] = Future()

    def run() -> None:
        try:
            jax.distributed.initialize(num_processes=count, process_id=index, initialization_timeout=2 * seconds)
        except BaseException as error:
            joined.set_exception(error)
        else:
            joined.set_result(None)

    threading.Thread(target=run, name="join", daemon=True).start()
    joined.result(seconds)


@contextlib.contextmanager
def end_at_once() -> Iterator[None]:
    """An error in the body ends this process there and then, if there are others.

    They wait for it in a step and learn from JAX that it is gone; at a usual exit JAX would wait for them first.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, LDISError):
            print(f"error: process {jax.process_index()}: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.status if isinstance(error, LDISError) else 1)
