"""Joining the processes of a run; what they do together is JAX's."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator

import jax

from ldis_jax.errors import LDISError, TryAgainError


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
        jax.distributed.initialize(num_processes=count, process_id=index)
    except (RuntimeError, ValueError) as error:
        silent = re.match("DEADLINE_EXCEEDED|UNAVAILABLE", str(error))
        raise (TryAgainError if silent else LDISError)(
            f"--multihost: cannot join the other hosts ({error}); see launch/README.md"
        ) from None


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
