"""Reads, checks and counts the files of a data set, in order and in parallel."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ldis_jax.datasets.pairs import read_pair
from ldis_jax.errors import LDISError
from ldis_jax.support.files import checked_file

# Images a task, and tasks in flight a worker: enough to keep it busy, few enough that memory stays flat.
_CHUNK, _AHEAD = 4, 2


class MaskMaker(Protocol):
    """A mask that is no file yet; picklable, because workers make it."""

    name: str

    def png(self) -> bytes:
        """The bytes of its PNG."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image of a split, before anybody looked at it.

    Attributes:
        name: unique in the split, such as "2007_000032" or "blackswan/00000".
        image: path.
        mask: path, or what makes it.
        video: its name; empty for images.
        frame: number of the frame in its video.
        object_label: of object pixels, for the mask rules "nonzero" and "half".
    """

    name: str
    image: str
    mask: str | MaskMaker
    video: str = ""
    frame: int = 0
    object_label: int = 0


class Scan(NamedTuple):
    """A scanned pair: the bytes of both files, height and width, labels with their pixels; or ``error`` alone."""

    image: bytes = b""
    mask: bytes = b""
    size: tuple[int, int] = (0, 0)
    labels: tuple[int, ...] = ()
    pixels: tuple[int, ...] = ()
    error: str = ""


def scan(item: Item, rule: str) -> Scan:
    """Decodes both files whole; ``error`` is "path: reason" where that fails or they do not fit each other."""
    try:
        image = Path(checked_file(item.image)).read_bytes()
        if isinstance(item.mask, str):
            mask, mask_name = Path(checked_file(item.mask)).read_bytes(), item.mask
        else:
            mask, mask_name = item.mask.png(), item.mask.name
        pixels, labels = read_pair(image, mask, rule, item.object_label, item.image, mask_name)
    except OSError as error:
        return Scan(error=f"{error.filename}: {error.strerror or error}")
    except LDISError as error:
        return Scan(error=str(error))
    counts = np.bincount(labels.ravel())
    present = np.flatnonzero(counts)
    return Scan(image, mask, pixels.shape[:2], tuple(present.tolist()), tuple(counts[present].tolist()))


def scan_all(items: Iterable[Item], rule: str, num_workers: int) -> Iterator[tuple[Item, Scan]]:
    """Scans in ``num_workers`` processes, or in this one for 0 and less; the order is that of ``items`` in any case.

    Raises:
        LDISError: a worker died.
    """
    if num_workers < 1:
        yield from ((item, scan(item, rule)) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, follow_parent, (signal.SIGINT,))
    pending: deque[tuple[list[Item], Future[list[Scan]]]] = deque()
    remaining = iter(items)
    try:
        while chunk := list(itertools.islice(remaining, _CHUNK)):
            pending.append((chunk, pool.submit(_scan_chunk, chunk, rule)))
            if len(pending) >= _AHEAD * num_workers:
                done, future = pending.popleft()
                yield from zip(done, future.result(), strict=True)
        for done, future in pending:
            yield from zip(done, future.result(), strict=True)
    except BrokenProcessPool:
        raise LDISError("a worker process died, perhaps for lack of memory; lower --num_workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _scan_chunk(items: list[Item], rule: str) -> list[Scan]:
    return [scan(item, rule) for item in items]


def follow_parent(ignored: signal.Signals) -> None:
    """A worker leaves a signal to its parent, and ends when the parent was killed; else it would wait for ever."""
    signal.signal(ignored, signal.SIG_IGN)

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
