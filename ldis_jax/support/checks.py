"""Types and ranges of values that come from files and callers."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from ldis_jax.errors import LDISError

# Larger ones are no network's sizes, and would build modules or arrays without end.
_MAX_INT, _MAX_LENGTH = 2**20, 64

# More than any machine has, or waits for: a slip of the hand ends at the door, not in the memory.
MOST_ROWS, MOST_PROCESSES, MOST_STEPS = 2**16, 2**10, 2**31 - 2

Counts = int | Iterable[int]


def check_fields(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Checks values for a dataclass's fields against their annotations.

    int (not bool) from 0 to 2^20, float finite, bool, str, None where allowed, and tuples of these of at most 64
    entries, for which lists do too. Finer ranges are the class's own matter.

    Raises:
        LDISError: the first value that does not fit, with its key; a key that is no field.
    """
    hints, fields = typing.get_type_hints(cls), {field.name for field in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields or not _fits(value, hints[key]):
            hint = (getattr(hints[key], "__name__", None) or str(hints[key])) if key in fields else "key"
            raise LDISError(f"{where}: {key}={value!r:.80} is not a usable {hint}")


def check_integer(name: str, value: int, minimum: int = 1, unit: str = "", maximum: float = math.inf) -> int:
    """An integer, of numpy's types too, in these bounds; anything else raises :class:`LDISError`."""
    if not isinstance(value, (int, np.integer)) or not minimum <= value <= maximum:
        most = "" if math.isinf(maximum) else f" and at most {maximum}"
        raise LDISError(f"{name}={value!r:.80}: must be an integer of at least {minimum}{most}{unit}")
    return int(value)


def check_number(name: str, value: float) -> float:
    """A finite number, of numpy's and JAX's types too; anything else raises :class:`LDISError`."""
    try:
        finite = math.isfinite(value)
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise LDISError(f"{name}={value!r:.80}: must be a finite number")
    return float(value)


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raises :class:`LDISError` where a value is none of those that it may be."""
    if value not in tuple(choices):
        raise LDISError(f"{name}={value!r:.80}: must be one of {', '.join(map(str, choices))}")


def check_counts(name: str, value: Counts) -> list[int]:
    """One count or several, as a list; what is no positive integer raises :class:`LDISError`."""
    return [
        check_integer(name, count, maximum=MOST_ROWS) for count in (value if isinstance(value, Iterable) else [value])
    ]


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, (list, tuple)) and len(value) <= _MAX_LENGTH and all(_fits(v, item) for v in value)
    if hint is int:
        return type(value) is int and 0 <= value <= _MAX_INT
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return isinstance(value, hint)
