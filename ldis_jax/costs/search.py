"""Tries slices of a chip, and ways to use them, for one training step; each is compiled in a process of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ldis_jax.errors import LDISError
from ldis_jax.runtime.chips import get_chip
from ldis_jax.runtime.home import cache_folder
from ldis_jax.training.compiled_step import program_facts, source_facts
from ldis_jax.training.run import Run

# The slices that Google offers, by generation.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_GRIDS = {"v5e": _FLAT, "v6e": _FLAT, "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")}
_MOMENTS = {"float32": 4, "bfloat16": 2}  # bytes of each of Adam's two
_MILLION = 1e6


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to take a training step.

    Attributes:
        topology: of one slice.
        fsdp: chips that share one copy of the parameters.
        moment_dtype: of Adam's moments.
    """

    topology: str
    fsdp: int
    moment_dtype: str

    @property
    def chips(self) -> int:
        """In the slice."""
        return _chips(self.topology)

    @property
    def keys(self) -> dict[str, str]:
        """The config keys that make it."""
        return {"mesh.fsdp": str(self.fsdp), "optim.moment_dtype": self.moment_dtype}

    def __str__(self) -> str:
        return f"{self.topology} {' '.join(f'{key}={value}' for key, value in self.keys.items())}"


def candidates(topology: str, batch_size: int) -> list[Candidate]:
    """All that are tried, in order: the slice asked for and then smaller ones, each first with all chips sharing.

    Raises:
        LDISError: an unknown topology, or one whose chips do not divide the batch.
    """
    get_chip(topology)
    generation = topology.partition(":")[0]
    slices = [f"{generation}:{smaller}" for smaller in _GRIDS[generation]]
    slices = [topology, *(each for each in reversed(slices) if _chips(each) < _chips(topology))]
    if batch_size % _chips(topology):
        raise LDISError(f"--batch_size={batch_size}: must be a multiple of the {_chips(topology)} chips of {topology}")
    found = []
    for each in slices:
        chips = _chips(each)
        if batch_size % chips == 0:
            sharing = dict.fromkeys((chips, *(4,) * (chips > 4), 1))
            found += [Candidate(each, fsdp, dtype) for fsdp in sharing for dtype in _MOMENTS]
    return found


def least_bytes(run: Run, candidate: Candidate) -> int:
    """Bytes that a chip holds in a step, activations not counted: state, frozen networks, parameters and gradients."""
    _, trained, frozen = run.shapes
    count = sum(x.size for x in trained.values())
    state = count * (4 + 2 * _MOMENTS[candidate.moment_dtype]) // candidate.fsdp
    return state + sum(x.size * x.dtype.itemsize for x in frozen.values()) + 4 * count


def search(
    run: Run, arguments: Sequence[str], topology: str, batch_size: int, minutes: float, say: Callable[[str], None]
) -> bool:
    """Compiles the candidates one after the other; returns True if one fits.

    What was compiled once is kept, in the user's cache, and read again. A compilation that has begun is not cut off.

    Args:
        run: of the config, on any mesh.
        arguments: the command line to compile each with; flags that are added to it win.
        topology: the largest slice.
        batch_size: over all chips.
        minutes: after which none begins.
        say: takes lines for people: each candidate as it is ready, then the choice and what was not tried.
    """
    end = time.monotonic() + 60 * minutes
    ready: dict[Candidate, dict[str, Any]] = {}
    skipped: dict[str, list[str]] = {"they cannot fit": [], "for want of time": []}
    for candidate in candidates(topology, batch_size):
        if any(known.topology == candidate.topology and known.fsdp == candidate.fsdp for known in fitting(ready)):
            continue  # smaller moments are for where larger ones do not fit
        if least_bytes(run, candidate) > get_chip(topology).memory:
            skipped["they cannot fit"].append(str(candidate))
            continue
        path = _cell(run, candidate, batch_size)
        if not path.is_file():
            if time.monotonic() >= end:
                skipped["for want of time"].append(str(candidate))
                continue
            if why := _compile(arguments, candidate, batch_size, path):
                say(f"{candidate}: {why}")
                continue
        cost = json.loads(path.read_text(encoding="utf-8"))["train"]
        ready[candidate] = cost
        say(_line(candidate, cost))
    for line in _choice(ready, batch_size):
        say(line)
    for why, names in skipped.items():
        if names:
            say(f"not tried, {why}: {'; '.join(names)}")
    if skipped["for want of time"]:
        say("the same command goes on from here; --search_minutes gives it longer")
    return bool(fitting(ready))


def fitting(ready: dict[Candidate, dict[str, Any]]) -> dict[Candidate, dict[str, Any]]:
    """Those whose step fits."""
    return {candidate: cost for candidate, cost in ready.items() if cost["fits"]}


def _choice(ready: dict[Candidate, dict[str, Any]], batch_size: int) -> Iterator[str]:
    fit = fitting(ready)
    if not fit:
        yield "none of those tried fits"
        return
    fastest = min(fit, key=lambda candidate: fit[candidate]["predicted_ms"])
    cheapest = min(fit, key=lambda candidate: fit[candidate]["predicted_ms"] * candidate.chips)
    for name, chosen in {"fastest": fastest, "cheapest": cheapest}.items():
        milliseconds = fit[chosen]["predicted_ms"]
        hours = milliseconds / 3.6e6 * chosen.chips * _MILLION / batch_size
        yield f"{name}: {chosen.topology}, {milliseconds:.1f} ms a step, {hours:.1f} chip-hours a million episodes"
        yield "  in the config: " + "; ".join(f"config.{key} = {_value(v)}" for key, v in chosen.keys.items())


def _value(text: str) -> str:
    return text if text.isdecimal() else repr(text)


def _line(candidate: Candidate, cost: dict[str, Any]) -> str:
    if cost["predicted_ms"] is None or not cost["fits"]:
        needed = f"{cost['peak_bytes'] / 1e9:.1f} of {cost['chip_bytes'] / 1e9:.0f} GB" if cost["peak_bytes"] else ""
        return f"{candidate}: does not fit {needed}".rstrip()
    compute, unhidden = cost["predicted_compute_ms"], cost["predicted_unhidden_ms"]
    return f"{candidate}: {compute:.1f} + {unhidden:.1f} ms, {cost['peak_bytes'] / 1e9:.1f} GB a chip"


def _compile(arguments: Sequence[str], candidate: Candidate, batch_size: int, path: Path) -> str:
    """Puts the costs into a file; returns why it could not, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = ["--nosearch", f"--topology={candidate.topology}", "--program=train", f"--batch_size={batch_size}"]
    flags += ["--config.mesh.data=-1", *(f"--config.{key}={value}" for key, value in candidate.keys.items())]
    command = [sys.executable, "-m", "ldis_jax.compile", *arguments, *flags, f"--json={path}"]
    print(f"compiling {candidate} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if path.is_file():
        return ""
    words = (done.stderr or done.stdout).strip().splitlines()
    return words[-1] if words else f"exit status {done.returncode}"


def _cell(run: Run, candidate: Candidate, batch_size: int) -> Path:
    """Where the costs of a candidate are kept: a function of all that its program depends on."""
    facts = program_facts(run) | source_facts("tpu") | {"candidate": str(candidate), "batch": str(batch_size)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "compiled_costs" / f"{digest[:24]}.json"


def _chips(topology: str) -> int:
    return math.prod(map(int, topology.partition(":")[2].split("x")))
