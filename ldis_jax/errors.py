"""The one exception that means "the input is at fault, not the program"."""

from __future__ import annotations

from collections.abc import Iterable

_MAX_NAMES = 10


class LDISError(ValueError):
    """Bad input: its message is one line saying what is wrong, where, and what to do.

    Commands print the message and exit with ``status``; library users may catch it as a ``ValueError``.
    """

    status = 2

    def __str__(self) -> str:
        return " ".join(super().__str__().split())  # names and values in it may hold line breaks


class TryAgainError(LDISError):
    """The machines are at fault, not the input: a full disk, a host that does not answer.

    Launch scripts take status 1 as worth another try, and 2 as a command that will be refused again.
    """

    status = 1


def list_names(names: Iterable[str]) -> str:
    """Joins at most ten names and counts the rest, so that a bad checkpoint does not flood the screen."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:_MAX_NAMES])
    rest = len(ordered) - _MAX_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown
