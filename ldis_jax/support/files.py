"""Files that are read with one clear line where they cannot be, and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldis_jax.errors import LDISError, TryAgainError

StrPath = str | os.PathLike[str]
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_LINKS = 40  # to be followed, as the system does
_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}  # also where a container has no such devices


# --- Reading ---


def checked_file(path: StrPath) -> StrPath:
    """The path, once it is known to be no pipe, device or socket, on which a reader could wait for ever.

    A folder, or what is missing, is left for the reader to name.

    Raises:
        LDISError: it is one of them, or cannot be looked at: a loop of links, a name that is too long.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError) as error:  # a name with a null in it
        raise LDISError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise LDISError(f"{path}: is a pipe, a device or a socket; save what it gives, and name that file")
    return path


@contextlib.contextmanager
def reading(where: object) -> Iterator[None]:
    """Turns whatever a missing, damaged or foreign file makes its reader raise into one line that names it.

    A :class:`~pathlib.Path` is what the body opens, and goes through :func:`checked_file` first.
    """
    try:
        if isinstance(where, Path):
            checked_file(where)
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


# --- Writing ---


def is_full(error: BaseException | None) -> bool:
    """True if a full disk or a used-up quota is behind an error; libraries wrap the system's, or only quote it."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(os.strerror(code) in str(error) for code in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def unwritable(path: object, error: Exception) -> LDISError:
    """The exception for a file or folder that could not be written; a full disk may be free again later."""
    why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    if is_full(error):
        return TryAgainError(f"{path}: cannot be written ({why}); free some space and try again")
    return LDISError(f"{path}: cannot be written ({why}); choose another place")


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Turns an ``OSError`` of the body into one line that names the file or folder to be written."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def atomic_write(path: StrPath) -> Iterator[Path]:
    """Yields a temporary path that takes the place of ``path`` if the body succeeds and vanishes if it fails.

    It lies beside the file and has its suffix, because writers read the format from it. Missing parent folders are
    made. A symbolic link stays, and what it leads to is replaced. What no file may replace, such as a pipe, a device or
    /dev/stdout, is given the content once it is whole; a reader that has gone by then has what it wanted.
    """
    path = Path(path)
    suffix = path.suffix if re.fullmatch(r"\.\w{1,16}", path.suffix, re.ASCII) else ""
    with writing(path):
        place = _place(path)
        if place is None:
            with tempfile.TemporaryDirectory(prefix="ldis_jax_") as folder:
                yield Path(folder) / f"content{suffix}"
                _pour(Path(folder) / f"content{suffix}", path)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{secrets.token_hex(8)}{suffix}")  # short: the name itself may be long
        try:
            yield temporary
            os.replace(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)


def check_writable(path: StrPath) -> None:
    """Raises :class:`LDISError` where :func:`atomic_write` would, as far as can be seen before the work."""
    path = Path(path)
    if os.path.isdir(path):
        why = "is a folder"
    elif is_stream(path):
        if descriptor(path) is not None or os.access(path, os.W_OK):
            return
        why = "no right to write to it"
    else:
        with writing(path):
            place = _place(path) or Path(path)
        there = next(folder for folder in place.parents if os.path.exists(folder))
        if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):
            return
        why = f"no right to write in {there}"
    raise LDISError(f"{path}: cannot be written ({why}); choose another place")


def is_stream(path: StrPath) -> bool:
    """True if a path is there and no file may take its place: a pipe, a device, a socket, /dev/stdout.

    Raises:
        LDISError: it cannot be looked at.
    """
    with writing(path):
        return not os.path.isdir(path) and _place(path) is None


def descriptor(path: StrPath) -> int | None:
    """The number of this process's open file that /dev/stdout, /dev/fd/N or a link to one of them stands for."""
    own, name = os.path.realpath("/proc/self/fd"), os.fspath(path)
    for _ in range(_MOST_LINKS):
        if name in _STANDARD:
            return _STANDARD[name]
        folder, base = os.path.split(name)
        folder = os.path.realpath(folder or os.curdir)
        if folder in (own, "/dev/fd") and base.isdecimal():
            return int(base)
        name = os.path.join(folder, base)
        if not os.path.islink(name):
            break
        name = os.path.join(folder, os.readlink(name))
    return None


def resolved(path: StrPath) -> Path:
    """The absolute path, links followed; raises :class:`LDISError` where they lead to each other."""
    with writing(path):
        found = Path(os.path.realpath(path))
        if found.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def _place(path: StrPath) -> Path | None:
    """The file that is to be replaced or made, links followed; None of what no file may replace.

    Raises:
        OSError: a folder, a loop of links, or a name that no file can have.
    """
    try:
        if descriptor(path) is not None:
            return None
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG
    except ValueError as error:  # a name with a null in it
        raise OSError(str(error)) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return Path(os.path.realpath(path)) if stat.S_ISREG(mode) else None


def _pour(content: Path, path: Path) -> None:
    """Writes a file's bytes to what is there."""
    number = descriptor(path)
    if number == 1 and sys.stdout is not None:
        sys.stdout.flush()  # what was printed stays before it
    # Through the open file itself: opened again by name, a file behind it would lose what it holds.
    sink = os.open(path, os.O_WRONLY | os.O_NOCTTY) if number is None else os.dup(number)
    with contextlib.suppress(BrokenPipeError), open(content, "rb") as source, open(sink, "wb") as file:
        shutil.copyfileobj(source, file)


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
