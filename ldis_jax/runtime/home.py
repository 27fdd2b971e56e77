"""The user's cache folder, and a home for users whom the system does not know (containers run as any number)."""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "ldis_jax_home_"


def cache_folder() -> Path:
    """Where named models and compiled programs are kept: LDIS_JAX_CACHE, or a folder of the user's cache.

    A relative path where the user has no home folder and names none.
    """
    if named := os.environ.get("LDIS_JAX_CACHE"):
        return Path(named).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldis_jax"
    except RuntimeError:
        return Path("ldis_jax")


def has_home() -> bool:
    """True if :func:`cache_folder` outlives this process."""
    named = os.environ.get("LDIS_JAX_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return bool(named) or _PREFIX not in os.environ.get("HOME", "")


def ensure_home() -> None:
    """Where no home folder is known, one for this process and those that it starts, gone at its end; likewise a name.

    Matplotlib and TFDS end without one, and the hub's library makes a folder named "~" where the command runs.
    """
    try:
        Path.home()
    except RuntimeError:
        with contextlib.suppress(OSError):  # nowhere to write
            os.environ["HOME"] = tempfile.mkdtemp(prefix=_PREFIX)
            atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # Python before 3.13, and since
        os.environ["USER"] = str(os.getuid())
