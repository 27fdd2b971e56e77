"""The cost of loading a pickle, found without loading it."""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from typing import Any

_GETS = ("GET", "BINGET", "LONG_BINGET", "DUP")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GROWING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # what is below the values stays itself
# What is got from the memo, counted as if it were written out each time: of honest files, little more than operations.
_MOST_REPEATED, _MOST_REPEATED_EACH = 100_000, 100


def check_pickle(file: Any, refused: Collection[str] = ()) -> None:
    """Reads to the end of one pickle, and knows by then that time and memory of loading it are as its length.

    A few bytes could otherwise ask for a memo of gigabytes, or for tuples of tuples of tuples, each of them twice,
    which are hashed without end as keys of a dictionary.

    Args:
        file: bytes that are read as a file is (``BytesIO``, ``mmap``), at the start of a pickle; left behind it.
        refused: names ("bytearray") that it must not ask for.

    Raises:
        ValueError: it is damaged, or costs more than that.
    """
    # Sizes of values with all that is in them, in cells of their own: a list grows after the memo has it.
    stack: list[list[int] | None] = []  # None is a mark
    memo: dict[int, list[int]] = {}
    operations = repeated = 0
    try:
        for code, argument, _ in pickletools.genops(file):
            operations += 1
            if code.name in _PUTS:
                place = len(memo) if code.name == "MEMOIZE" else int(argument or 0)
                memo[place] = _value(stack[-1])
                fits = place <= operations
            elif code.name in _GETS:
                stack.append(_value(stack[-1]) if code.name == "DUP" else memo[int(argument or 0)])
                repeated += _value(stack[-1])[0]
                fits = repeated <= _MOST_REPEATED + _MOST_REPEATED_EACH * operations
            else:
                _apply(code, stack)
                fits = not (code.name in ("GLOBAL", "INST") and str(argument).split()[-1] in refused)
            if not fits:
                raise ValueError("a pickle that asks for more time or memory than a file of its size can need")
    except (IndexError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"a damaged pickle ({type(error).__name__})") from None


def _apply(code: pickletools.OpcodeInfo, stack: list[list[int] | None]) -> None:
    before = [kind.name for kind in code.stack_before]
    if code.name == "MARK":
        stack.append(None)
        return
    taken: list[list[int]] = []
    if "mark" in before:
        while (value := stack.pop()) is not None:
            taken.append(value)
        before = before[: before.index("mark")]
    taken += [_value(stack.pop()) for _ in before]
    size = 1 + sum(value[0] for value in taken)
    if code.name in _GROWING:
        taken[-1][0] = size
        stack.append(taken[-1])
    elif code.stack_after:
        stack.append([size])


def _value(cell: list[int] | None) -> list[int]:
    if cell is None:
        raise IndexError
    return cell
