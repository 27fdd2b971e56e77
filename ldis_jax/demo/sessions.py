"""Which browser has which files of the server, and how much it has uploaded."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ldis_jax.demo.uploads import Limits

KEEP, CHECK_EVERY = 3600, 600  # seconds that a file is kept, and between looks at it
_LEAST = 64 * 1024  # bytes that an upload counts for; it bounds the number of files, too
_MOST_NAMES = 10_000


class Sessions:
    """The files of every session: those that it uploaded, and those that the server told it of.

    A session is a cookie of the guard. A file that was in the folder at the start is everyone's.
    """

    def __init__(self, folder: Path, limits: Limits, clock: Callable[[], float] = time.monotonic):
        """Takes the folder in which the server keeps its files."""
        self._folder, self._limits, self._clock = folder, limits, clock
        self._public = frozenset(map(str, folder.rglob("*")))
        self._told: dict[tuple[str, str], float] = {}
        self._uploads: collections.deque[tuple[float, str, int]] = collections.deque()
        self._bytes: collections.Counter[str] = collections.Counter()
        self._names: dict[str, str] = {}

    def may_read(self, session: str, path: object) -> bool:
        """True if the session has this file."""
        return isinstance(path, str) and (path in self._public or (session, path) in self._told)

    def tell(self, session: str, answer: bytes) -> bool:
        """Notes the files that an answer of the server names: JSON, or events with JSON.

        Returns:
            Whether it names files, and none is new: the page uploads what is painted again and again.
        """
        found = []
        for line in answer.splitlines():
            with contextlib.suppress(ValueError):
                for text in _texts(json.loads(line.removeprefix(b"data: "))):
                    if text.startswith(f"{self._folder}{os.sep}"):
                        found.append(self._told.pop((session, text), None))
                        self._told[session, text] = self._clock()
        return bool(found) and None not in found

    def upload(self, session: str, size: int) -> str:
        """Counts bytes of an upload; a line where they are too many."""
        self._forget()
        size = max(size, _LEAST)
        for of, limit, who in (
            (session, self._limits.session_mb, "of one browser"),
            ("", self._limits.total_mb, "of all browsers together"),
        ):
            if self._bytes[of] + size > limit * 2**20:
                return f"Uploads {who} are more than {limit:g} MB within an hour; try again later"
        self._uploads.append((self._clock(), session, size))
        self._bytes.update({session: size, "": size})
        return ""

    def take_back(self, session: str, size: int) -> None:
        """Gives back the bytes of an upload that failed or is there already."""
        size = max(size, _LEAST)
        with contextlib.suppress(ValueError, StopIteration):  # it has been forgotten
            self._uploads.remove(next(each for each in reversed(self._uploads) if each[1:] == (session, size)))
            self._bytes.subtract({session: size, "": size})

    def has_name(self, session: str, name: str) -> bool:
        """True if the name that a page gave itself is this session's; the first that uses it has it."""
        while len(self._names) >= _MOST_NAMES:
            del self._names[next(iter(self._names))]
        return self._names.setdefault(name, session) == session

    def sweep(self) -> None:
        """Removes the folder's files that are older than an hour."""
        for file in self._folder.rglob("*"):
            with contextlib.suppress(OSError):
                if str(file) not in self._public and time.time() - file.stat().st_ctime > KEEP:
                    file.rmdir() if file.is_dir() else file.unlink()

    def sweep_always(self) -> None:
        """In a thread that ends with the process."""

        def work() -> None:
            while True:
                time.sleep(CHECK_EVERY)
                self.sweep()

        threading.Thread(target=work, daemon=True).start()

    def _forget(self) -> None:
        """Forgets files older than the server keeps them."""
        end = self._clock() - KEEP - CHECK_EVERY
        while self._uploads and self._uploads[0][0] < end:
            _, session, size = self._uploads.popleft()
            self._bytes.subtract({session: size, "": size})
            if not self._bytes[session]:
                del self._bytes[session]
        while self._told and next(iter(self._told.values())) < end:
            del self._told[next(iter(self._told))]


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def folder_bytes(folder: Path) -> int:
    """The size of all files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total
