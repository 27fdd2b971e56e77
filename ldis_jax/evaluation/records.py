"""The records of an evaluation, one JSON line per episode, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from ldis_jax.errors import LDISError
from ldis_jax.support.files import checked_file, writing
from ldis_jax.support.json_files import parse_json

_LOGGER = logging.getLogger(__name__)


class Records:
    """A file that only grows: a header line that says what is measured, then one record a line."""

    def __init__(self, path: Path, header: dict[str, Any], kind: Any = dict[str, Any], finished: bool = True):
        """Opens or continues the file; it has a header at once, and stays only with a record.

        Records of another evaluation that was not finished are moved aside, and that is said: a run that failed must
        not stop the next.

        Args:
            path: of the file.
            header: what is measured, JSON-able.
            kind: the type of a record.
            finished: whether what the file may hold came to its end.

        Raises:
            LDISError: the file has another header and is finished, or no records' form; it cannot be read or written.
        """
        self.records: list[dict[str, Any]] = []
        self._path = path
        header = json.loads(json.dumps(header))
        with writing(path):
            checked_file(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            if lines and not lines[-1].endswith(b"\n"):
                lines.pop()  # written in part when the run was cut off
            if lines:
                found, *self.records = _read(lines, kind)
                if found != header:
                    why = _first_difference(found, header)
                    if finished or found is None:
                        raise LDISError(f"{path}: holds another evaluation ({why}); remove it, or choose another --out")
                    aside = path.with_suffix(f".unfinished{path.suffix}")
                    os.replace(path, aside)
                    _LOGGER.warning("%s: of another evaluation, not finished (%s); moved to %s", path, why, aside.name)
                    lines, self.records = [], []
            self._file = open(path, "ab")  # noqa: SIM115
            self._file.truncate(sum(map(len, lines)))
            if not lines:
                self._write(header)

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record; it outlives the process from here on."""
        self._write(record)
        self.records.append(record)

    def _write(self, obj: dict[str, Any]) -> None:
        with writing(self._path):
            self._file.write(json.dumps(obj, separators=(",", ":")).encode() + b"\n")
            self._file.flush()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with writing(self._path), self._file:  # closes it
            os.fsync(self._file.fileno())
        if not self.records:
            self._path.unlink(missing_ok=True)


def _read(lines: list[bytes], kind: Any) -> list[Any]:
    try:
        return [parse_json(lines[0]), *(parse_json(line, kind) for line in lines[1:])]
    except ValueError:  # no JSON, or no text
        return [None]


def _first_difference(found: Any, wanted: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return "no records that can be read"
    key = next(key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key))
    return f"{key}: {found.get(key)!r}, now {wanted.get(key)!r}"
