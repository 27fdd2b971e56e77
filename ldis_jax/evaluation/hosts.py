"""One evaluation by several processes: each measures a share of the items on its own devices, process 0 writes.

Nothing crosses hosts but finished records and errors: networks are evaluated one item at a time, so that a share needs
no other, and the figures are those of one process. With one process none of this does anything.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ldis_jax.errors import LDISError, TryAgainError

T = TypeVar("T")


def share(items: Sequence[T]) -> Sequence[T]:
    """The items of this process p of P: p, p + P, p + 2 P, ..."""
    return items[jax.process_index() :: jax.process_count()]


def in_order(mine: Iterator[Any], count: int, every: int) -> Iterator[Any]:
    """The results of all processes for their :func:`share` of ``count`` items, in order, on every process.

    Args:
        mine: JSON-able, one for each item of this process's share.
        count: items of all processes.
        every: how many of ``mine`` are made before the processes meet.

    Raises:
        LDISError: any process raised it; on every process, so that none waits for ever.
    """
    if jax.process_count() == 1:
        yield from mine
        return
    for _ in range(0, count, every * jax.process_count()):
        parts = _exchange(lambda: list(itertools.islice(mine, every)))
        yield from (part[i] for i in range(every) for part in parts if i < len(part))


def on_every(make: Callable[[], T]) -> T:
    """The result of ``make`` on this process; an :class:`LDISError` on any process is raised on every one."""
    made: list[T] = []
    _exchange(lambda: made.append(make()))
    return made[0]


def differing(facts: dict[str, Any]) -> list[str]:
    """The keys whose values, JSON-able, are not the same on all processes."""
    first, *others = _exchange(lambda: facts)
    return [key for key in first if any(first[key] != other.get(key) for other in others)]


def on_lead(make: Callable[[], T]) -> T:
    """The result of process 0, JSON-able, or the :class:`LDISError` that it raises, on every process."""
    return _exchange(make if jax.process_index() == 0 else lambda: None)[0]


def _exchange(make: Callable[[], Any]) -> list[Any]:
    """The results of all processes, by process."""
    if jax.process_count() == 1:
        return [make()]
    try:
        mine = {"value": make()}
    except LDISError as error:
        mine = {"error": str(error), "status": error.status}
    data = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data)))
    room = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few sizes, for each is compiled once
    room[: len(data)] = data
    rows = multihost_utils.process_allgather(room)
    outcomes = [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
    for outcome in outcomes:
        if "error" in outcome:
            kind = TryAgainError if outcome["status"] == TryAgainError.status else LDISError
            raise kind(outcome["error"])
    return [outcome["value"] for outcome in outcomes]
