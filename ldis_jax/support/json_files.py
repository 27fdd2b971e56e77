"""JSON from outside: of a bounded size, with one meaning, and of the form that its reader takes."""

from __future__ import annotations

import collections
import functools
import json
import math
import os
from typing import Any, TypeVar, overload

from ldis_jax.support.files import StrPath, checked_file, reading

T = TypeVar("T")
MOST_BYTES = 1 << 24  # of what describes models and data
_DEPTH = 64  # of containers in each other


@overload
def read_json(path: StrPath, *, form: str = ..., most: int = ...) -> dict[str, Any]: ...
@overload
def read_json(path: StrPath, kind: type[T], *, form: str = ..., most: int = ...) -> T: ...
def read_json(path: StrPath, kind: Any = dict[str, Any], *, form: str = "", most: int = MOST_BYTES) -> Any:
    """The content of a file, as :func:`parse_json` gives it.

    Raises:
        LDISError: no file, more than ``most`` bytes, no JSON, or not of that ``kind``; ``form`` says what that is.
    """
    checked_file(path)
    with reading(f"{path}, {form}" if form else path), open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"more than {most >> 20} MiB of JSON")
        return parse_json(file.read(most), kind)


@overload
def parse_json(text: str | bytes) -> dict[str, Any]: ...
@overload
def parse_json(text: str | bytes, kind: type[T], *, nan: bool = False) -> T: ...
def parse_json(text: str | bytes, kind: Any = dict[str, Any], *, nan: bool = False) -> Any:
    """JSON as ``kind``: a type that pydantic checks strictly, such as ``list[int]`` or a typed dictionary.

    Refused is what programs read in different ways or end on: a key that is given twice, integers beyond 64 bits,
    numbers beyond double precision, NaN and infinity unless ``nan``, and nesting without end.

    Raises:
        ValueError: in one line.
    """
    constant = float if nan else _number
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=constant
        )
        deep = _is_deep(value)
    except RecursionError:
        deep = True
    if deep:
        raise ValueError("JSON that is nested too deep")
    return of_kind(value, kind)


@overload
def of_kind(value: Any, kind: type[T]) -> T: ...
@overload
def of_kind(value: Any, kind: Any) -> Any: ...
def of_kind(value: Any, kind: Any) -> Any:
    """A part of what :func:`parse_json` gave, as another ``kind``; raises as it does."""
    from pydantic import ValidationError  # late: commands print --help without

    try:
        return _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _is_deep(value: Any) -> bool:
    """True if containers lie in each other beyond what we read, on which later code could end."""
    level: list[Any] = [[value]]
    for _ in range(_DEPTH):
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [child for part in parts for child in part if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key, _ = collections.Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {key!r:.80} is given twice")
    return found


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else 2**63
    return _checked(digits, value, -(2**63) <= value < 2**63)


def _number(text: str) -> float:
    return _checked(text, float(text), math.isfinite(float(text)))


def _checked(text: str, value: T, fits: bool) -> T:
    if not fits:
        raise ValueError(f"{text:.20} is no number of JSON that all programs read")
    return value
