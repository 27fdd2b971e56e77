"""Queries in batches through a network, with the host's work beside the device's."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

S = TypeVar("S")
T = TypeVar("T")

# What the evaluators call: arrays with a leading batch axis -> R float32 [B, S, S, 3], of NumPy, or of JAX and then
# still being computed.
Predict = Callable[[dict[str, np.ndarray]], Any]

_THREADS = min(os.cpu_count() or 1, 16)


def predict_batches(
    predict: Predict,
    items: Iterable[S],
    load: Callable[[S], Iterable[tuple[T, Mapping[str, np.ndarray]]]],
    batch_size: int,
) -> Iterator[tuple[T, np.ndarray]]:
    """Yields (query, R float32 [S, S, 3]) of all queries of all items, in order.

    Threads load, up to a batch ahead, and a batch is handed to the device before the results of the one before are
    looked at. The last batch is filled up by repetition, so that every batch has one shape and nothing compiles twice.

    Args:
        predict: takes the arrays, batched.
        items: what is loaded, such as the indices of episodes.
        load: an item -> its queries, (anything, arrays for the network); called in threads. What it yields lazily is
            made when its batch is.
        batch_size: queries at a time.
    """
    queries = itertools.chain.from_iterable(map_ahead(load, items, batch_size, _THREADS))
    running: deque[tuple[list[T], Any]] = deque()
    while batch := list(itertools.islice(queries, batch_size)):
        filled = [arrays for _, arrays in batch] + [batch[-1][1]] * (batch_size - len(batch))
        stacked = {name: np.stack([arrays[name] for arrays in filled]) for name in filled[0]}
        running.append(([query for query, _ in batch], predict(stacked)))
        if len(running) > 1:
            yield from _results(*running.popleft())
    for queries_and_result in running:
        yield from _results(*queries_and_result)


def _results(queries: list[T], result: Any) -> Iterator[tuple[T, np.ndarray]]:
    return zip(queries, np.asarray(result), strict=False)


def map_ahead(function: Callable[[S], T], items: Iterable[S], ahead: int, threads: int = _THREADS) -> Iterator[T]:
    """``map(function, items)``, in order, whose calls run in threads, up to ``ahead`` of them before they are needed.

    ``items`` are drawn in the caller's thread.
    """
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
