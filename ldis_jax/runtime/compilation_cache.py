"""Programs that commands compiled, kept between processes by JAX's own cache."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldis_jax.runtime.home import cache_folder


def use_compilation_cache() -> None:
    """Lets JAX keep compiled programs in the user's cache folder; to be called before jax is imported.

    JAX_COMPILATION_CACHE_DIR, JAX's own variable, names another folder; empty, it keeps nothing. So does a user without
    a home folder, or with one that takes no files: programs are machine code, which belongs in no folder of others.
    """
    # Home folders are shared; code for one processor may not run on another.
    cache = cache_folder() / f"compiled-{processor()[:8]}"
    there = next(folder for folder in (cache, *cache.parents) if os.path.exists(folder))
    usable = cache.is_absolute() and os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache) if usable else "")


@contextmanager
def no_compilation_cache() -> Iterator[None]:
    """Compiles again what is compiled inside: XLA:CPU cannot write out a program that came from the cache."""
    import jax  # here: the cache's folder is chosen before jax is imported
    from jax.experimental.compilation_cache import compilation_cache

    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether there is a cache is found out once, and kept
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def processor() -> str:
    """A name of this machine's processor and its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return hashlib.sha256(f"{platform.machine()} {platform.processor()}".encode()).hexdigest()
    kinds = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return hashlib.sha256("".join(kinds).encode()).hexdigest()
