"""Programs that commands compiled, kept between processes by JAX's own cache."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path


def use_compilation_cache() -> None:
    """Lets JAX keep compiled programs in the user's cache folder; to be called before jax is imported.

    JAX_COMPILATION_CACHE_DIR, JAX's own variable, names another folder; empty, it keeps nothing.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # Home folders are shared; code for one processor may not run on another.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "ldis_jax" / f"compiled-{processor()[:8]}"))


def processor() -> str:
    """A name of this machine's processor and its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return hashlib.sha256(f"{platform.machine()} {platform.processor()}".encode()).hexdigest()
    kinds = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return hashlib.sha256("".join(kinds).encode()).hexdigest()
