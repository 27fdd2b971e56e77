"""What every command shares: one clear line and status 2 for a user's mistake; compiled programs that are kept."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from typing import NoReturn

from ldis_jax.errors import LDISError
from ldis_jax.runtime.compilation_cache import use_compilation_cache
from ldis_jax.runtime.memory import out_of_memory


class Parser(argparse.ArgumentParser):
    """The flags of a command; a wrong one is one line, as all bad input is."""

    def __init__(self, name: str, description: str | None, epilog: str | None = None):
        """Of ``python -m ldis_jax.NAME``, whose ``--help`` prints both texts as they are."""
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(f"python -m ldis_jax.{name}", None, description, epilog, formatter_class=layout)

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        _fail(f"{message}; see --help", 2)


def run(main: Callable[[], None]) -> None:
    """Calls ``main`` and turns bad input into ``error: ...`` on standard error and exit status 2.

    Where the machines are at fault (:class:`~ldis_jax.errors.TryAgainError`) the status is 1.
    """
    use_compilation_cache()
    gc.set_threshold(50_000)  # tracing makes objects by the million, and few to be collected: a tenth of its time
    try:
        main()
    except LDISError as error:
        _fail(error, error.status)
    except KeyboardInterrupt as stop:
        if str(stop):
            print(f"\n{stop}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        words = out_of_memory(error)
        if words is None:
            raise
        _fail(f"out of memory on a device ({words}); docs/troubleshooting.md says what makes it less", 2)


def _fail(message: object, status: int) -> NoReturn:
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(status)
