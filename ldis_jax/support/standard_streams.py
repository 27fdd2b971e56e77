"""Standard output and error that no reader, terminal, encoding or full disk can end a command by."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO

from ldis_jax.support.files import unwritable

_GONE = (errno.EPIPE, errno.EIO)  # of a reader such as `head`, of a terminal


class _Surviving(io.FileIO):
    """A stream that drops what it cannot write, and keeps the error."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Writes as the system does, or pretends to."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            return len(data)


def prepare() -> None:
    """Puts such streams in place of the interpreter's, and what takes everything in place of closed ones."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get what is printed to this number
            # Whoever names /dev/stdout as an output is told that it is closed.
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and _number(stream) == number:
            with contextlib.suppress(OSError):
                stream.flush()
            setattr(sys, name, _surviving(stream, number))


def finish() -> None:
    """Writes what waits to be.

    Raises:
        LDISError: standard output did not take all of it, and its reader is still there; its disk may be full.
    """
    sys.stdout.flush()
    raw = getattr(sys.stdout, "buffer", None)
    raw = getattr(raw, "raw", raw)
    if isinstance(raw, _Surviving) and raw.error is not None and raw.error.errno not in _GONE:
        raise unwritable("standard output", raw.error)


def _surviving(stream: TextIO, number: int) -> TextIO:
    """The stream opened again; a name that its encoding cannot say is escaped."""
    raw = _Surviving(number, "w", closefd=False)
    return io.TextIOWrapper(
        raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw),
        stream.encoding,
        "backslashreplace",
        line_buffering=bool(stream.line_buffering),
        write_through=bool(getattr(stream, "write_through", False)),
    )


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
