"""The common part of all commands: one line and status 2 for a user's mistake; compiled programs are kept."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ldis_jax.errors import LDISError, TryAgainError
from ldis_jax.runtime.compilation_cache import use_compilation_cache
from ldis_jax.runtime.home import ensure_home
from ldis_jax.runtime.memory import out_of_memory
from ldis_jax.support import standard_streams
from ldis_jax.support.files import StrPath, descriptor, is_full

_NOT_UTF8 = re.compile(r"[^\s\0]*[\ud800-\udfff][^\s\0]*")  # how Python spells bytes of a name that are no UTF-8


class Parser(argparse.ArgumentParser):
    """The flags of a command; a wrong one is one line, as all bad input is."""

    def __init__(self, name: str, description: str | None, epilog: str | None = None):
        """Describes ``python -m ldis_jax.NAME`` or ``python NAME.py``; ``--help`` prints both texts as they are."""
        layout = argparse.RawDescriptionHelpFormatter
        program = f"python {name}" if name.endswith(".py") else f"python -m ldis_jax.{name}"
        super().__init__(program, None, description, epilog, formatter_class=layout)
        self.register("type", Path, path)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses as argparse does; where a flag names standard output, the command now prints to standard error."""
        for word in sys.argv[1:]:
            if word.startswith("-") and word.endswith("=--"):  # which argparse takes for no value at all
                self.error(f"argument {word.removesuffix('=--')}: expected one argument")
        found = super().parse_args(*args, **kwargs)
        if getattr(found, "offline", False):
            os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported
        keep_stdout_for(*(value for value in vars(found).values() if isinstance(value, Path)))
        return found

    def add_model_flag(self, **options: Any) -> None:
        """``--model`` and ``--offline``."""
        self.add_argument("--model", help="small, tiny, ldis1, ldisn, a model folder, or a hub id", **options)
        self.add_argument("--offline", action="store_true", help="fetch nothing; take what is on this machine")

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        _fail(f"{message}; see --help", 2)


def keep_stdout_for(*outputs: StrPath | None) -> None:
    """Where one of a command's outputs is standard output, what it prints goes to standard error."""
    if any(output is not None and descriptor(output) == 1 for output in outputs):
        sys.stdout = sys.stderr


def run(main: Callable[[], None]) -> None:
    """Calls ``main`` and turns bad input into ``error: ...`` on standard error and exit status 2.

    Where the machines are at fault (:class:`~ldis_jax.errors.TryAgainError`) the status is 1. What a reader that has
    gone did not take is no error.
    """
    standard_streams.prepare()
    logging.basicConfig(format="%(message)s")  # absl would put names of modules before the lines that users read
    use_compilation_cache()
    ensure_home()
    gc.set_threshold(50_000)  # tracing makes objects by the million, and few to be collected: a tenth of its time
    try:
        with contextlib.redirect_stdout(sys.stdout):  # main may turn it elsewhere
            main()
        standard_streams.finish()
    except KeyboardInterrupt as stop:
        if str(stop):
            print(f"\n{stop}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        refused = error if isinstance(error, LDISError) else _in_one_line(error)
        if refused is None:
            raise
        _fail(refused, refused.status)


def _in_one_line(error: Exception) -> LDISError | None:
    """The line for an error that no reader or writer of files expects; None for a mistake of ours."""
    if (words := out_of_memory(error)) is not None:
        return LDISError(f"out of memory on a device ({words}); docs/troubleshooting.md says what makes it less")
    name = getattr(error, "filename", None)
    if is_full(error):
        return TryAgainError(f"{name or 'a file'}: cannot be written ({error}); free some space and try again")
    if isinstance(error, OSError) and name is not None:
        return LDISError(f"{name}: cannot be used ({error.strerror}); choose another file or folder")
    if isinstance(error, UnicodeEncodeError) and (found := _NOT_UTF8.search(error.object)):
        return LDISError(f"{found[0]}: cannot be used (the name is no UTF-8); rename the file or folder")
    return None


def path(text: str) -> Path:
    """The type of flags for files and folders; it refuses an empty value, which would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("names no file or folder")
    return Path(text)


def _fail(message: object, status: int) -> NoReturn:
    line = " ".join(str(message).split()).encode(errors="backslashreplace").decode()  # names that are no UTF-8
    print(f"error: {line}", file=sys.stderr)
    sys.exit(status)
