"""What every command shares: one clear line and status 2 for a user's mistake, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ldis_jax.errors import LDISError


def run(main: Callable[[], None]) -> None:
    """Calls ``main`` and turns bad input into ``error: ...`` on standard error and exit status 2."""
    try:
        main()
    except LDISError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
