"""Memory of the process and of its devices."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ldis_jax.errors import LDISError

if TYPE_CHECKING:
    from ml_collections import ConfigDict  # commands import this before they know whether there is work

_EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED: (?:E\d+: \w+: )?(.*(?:memory|allocat).*)", re.IGNORECASE)


def release_free_memory() -> None:
    """Gives what was freed back to the system, where the C library can.

    It keeps what was freed between things that stay: 0.8 of 3.6 GB after SD 1.5 was read in bfloat16, 1.3 GB after its
    training step was compiled.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def out_of_memory(error: BaseException) -> str | None:
    """XLA's own words, in a line, where an error says that a device has too little memory; None for any other error."""
    match = _EXHAUSTED.match(str(error))
    return match[1].rstrip(". ") if match else None


def memory_options(config: ConfigDict, devices: int) -> str:
    """Config keys that make a training step smaller and are not yet in use, cheapest first; ``devices`` in a slice."""
    options = []
    if config.mesh.fsdp < devices:
        options.append(f"--config.mesh.fsdp={devices}")
    # Computed in bfloat16, gradients are kept in another type only to be summed.
    if config.step.grad_dtype == "float32" and (config.dtype == "float32" or config.step.accumulate > 1):
        options.append("--config.step.grad_dtype=bfloat16")
    if config.optim.moment_dtype == "float32":
        options.append("--config.optim.moment_dtype=bfloat16")
    if config.remat != "blocks":
        options.append("--config.remat=blocks")
    options.append(f"--config.step.accumulate={2 * config.step.accumulate}")
    return ", ".join(options) + ", a smaller batch or more devices"


@contextlib.contextmanager
def explained(config: ConfigDict) -> Iterator[None]:
    """Training that finds too little memory on a device, while it compiles or later, ends in one line."""
    try:
        yield
    except Exception as error:
        words = out_of_memory(error)
        if words is None:
            raise
        import jax

        options = memory_options(config, jax.device_count() // config.mesh.slices)
        raise LDISError(f"training needs more memory than a device has ({words}); try {options}") from error
