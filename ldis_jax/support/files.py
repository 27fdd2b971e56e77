"""Files that are read with one clear line where they cannot be, and written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldis_jax.errors import LDISError

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def reading(where: object) -> Iterator[None]:
    """Turns whatever a missing, damaged or foreign file makes its reader raise into one line that names it."""
    try:
        yield
    except (LDISError, MemoryError):
        raise
    except Exception as error:
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise LDISError(f"{where}: cannot be read ({' '.join(why.split())[:200]})") from error


def natural_key(path: StrPath) -> tuple[object, ...]:
    """Sorts paths by folder, and numbers in names by their value: frame2 comes before frame10."""
    folder, stem = Path(path).parent, Path(path).stem
    parts = [re.split(r"([0-9]+)", name) for name in (*folder.parts, stem)]
    numbers = [[int(text) if i % 2 else text for i, text in enumerate(part)] for part in parts]
    return numbers[:-1], numbers[-1], os.fspath(path)


def list_files(folder: StrPath, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder with one of the suffixes (lower case), in the order of :func:`natural_key`.

    Hidden files, those of macOS among them (._1.png beside 1.png), are passed over. Of a folder that may not be read
    there are none.
    """
    inside = map(Path, glob.glob(f"{glob.escape(os.fspath(folder))}/*"))
    return sorted((path for path in inside if path.suffix.lower() in suffixes and not path.is_dir()), key=natural_key)


@contextlib.contextmanager
def writing(path: StrPath) -> Iterator[None]:
    """Turns an ``OSError`` of the body into one line that names the file or folder to be written."""
    try:
        yield
    except OSError as error:
        raise LDISError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


@contextlib.contextmanager
def atomic_write(path: StrPath) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that takes its place if the body succeeds and vanishes if it fails.

    Missing parent folders are made. The temporary name keeps the suffix, because writers read the format from it. A
    pipe or a device, /dev/stdout among them, is written to as it is.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    with writing(path):
        if _is_stream(path):
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def check_writable(path: StrPath) -> None:
    """Raises :class:`LDISError` where :func:`atomic_write` would, as far as can be seen before the work."""
    path = Path(path)
    if _is_stream(path):
        return
    there = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is a folder" if path.is_dir() else f"no right to write in {there}"
        raise LDISError(f"{path}: cannot be written ({why}); choose another place")


def _is_stream(path: Path) -> bool:
    """Whether no file may take the place of what is there; /dev/stdout may lead to a file, and is still no file."""
    return str(path) in ("/dev/stdout", "/dev/stderr") or (path.exists() and not path.is_file() and not path.is_dir())


@contextlib.contextmanager
def only_one(folder: Path, error: LDISError) -> Iterator[None]:
    """Holds a lock in ``folder``, made if missing, which ends with the process; raises ``error`` where it is held.

    File systems without locks are let pass.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
    with open(lock, "rb"):  # closes it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error from None
        except OSError:
            pass
        yield


def write_json(path: StrPath, obj: Any) -> None:
    """Writes strict JSON: NaN and infinity raise ``ValueError``, because other programs could not read them."""
    text = json.dumps(obj, indent=1, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
