"""A home for users whom the system does not know: containers run as any number, without HOME and without a name."""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import shutil
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Where no home folder is known, one for this process and those that it starts, gone at its end; likewise a name.

    Matplotlib and TFDS end without one, and the hub's library makes a folder named "~" where the command runs.
    """
    try:
        Path.home()
    except RuntimeError:
        with contextlib.suppress(OSError):  # nowhere to write
            os.environ["HOME"] = tempfile.mkdtemp(prefix="ldis_jax_home_")
            atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # Python before 3.13, and since
        os.environ["USER"] = str(os.getuid())
