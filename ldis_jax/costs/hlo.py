"""Reads the text of a compiled TPU program: its schedule, and the compiler's own cycle estimates."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CONTROL = re.compile(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CALLS = re.compile(r"calls=%?([\w.\-]+)")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')

# Name scopes that the networks and the training step set.
_NETWORKS = ("unet", "vae_encoder", "vae_decoder", "prompt_encoder", "optimizer")
_LAYERS = ("attention", "resnet", "feed_forward")

# No kernels: other views of memory, memory alone, a promise, an order, the number of a slice, the ends of an exchange
# whose bytes are counted.
_FREE = (
    "ConcatBitcast",
    "AllocateBuffer",
    "AssumeGatherIndicesInBound",
    "NopReturnToken",
    "SliceId",
    "AsyncCollectiveStart",
    "AsyncCollectiveDone",
)


class Operation(NamedTuple):
    """One operation of a schedule.

    Attributes:
        line: its text.
        inside: (computation, line) of what a fusion is made of; to be read once.
    """

    line: str
    inside: Iterator[tuple[str, str]]

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 where it has none."""
        return sum(map(int, _CYCLES.findall(self.line)))


def estimated_cycles(text: str) -> dict[str, int]:
    """Cycles of one execution by part, largest first: operations' estimates, bodies of loops as often as they run.

    A part is a network, what it does and where: "unet backward/attention", by the name scopes of the code; what is
    computed again for a backward pass counts to it. A fusion counts to the part of its last operation. Operations
    without an estimate, collectives and opaque kernels, count nothing.
    """
    parts: collections.Counter[str] = collections.Counter()
    for operation, times in executed(text):
        if cycles := operation.cycles:
            parts[_part(operation.line)] += times * cycles
    return dict(parts.most_common())


def _part(line: str) -> str:
    match = _OP_NAME.search(line)
    scopes = re.findall(r"\w+", match[1]) if match else []
    network = next((scope for scope in scopes if scope in _NETWORKS), "other")
    layer = next((f"/{scope}" for scope in reversed(scopes) if scope in _LAYERS), "")
    return network + (" backward" if match and "transpose(" in match[1] else "") + layer


def unmodelled_custom_calls(text: str) -> int:
    """Opaque kernels that the compiler gives no estimate for, as the text has them."""
    calls = (line for line in text.splitlines() if " custom-call(" in line and not _CYCLES.search(line))
    return sum(not any(f'custom_call_target="{name}"' in line for name in _FREE) for line in calls)


def executed(text: str) -> Iterator[tuple[Operation, int]]:
    """(operation, times) in the order of their schedule, bodies of loops as often as they run.

    An operation comes before those that it runs.
    """
    computations = _split(text)

    def visit(name: str, times: int) -> Iterator[tuple[Operation, int]]:
        for line in computations.get(name, ()):
            yield Operation(line, inside(line)), times
            for called, n in _called(line, computations):
                yield from visit(called, times * n)

    def inside(line: str) -> Iterator[tuple[str, str]]:
        for name in _CALLS.findall(line):
            for each in computations.get(name, ()):
                yield name, each
                yield from inside(each)

    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    assert entry is not None
    return visit(entry[1], 1)


def _split(text: str) -> dict[str, list[str]]:
    """Lines by computation."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[1], [])
        elif line.startswith("  "):
            lines.append(line)
    return computations


def _called(line: str, computations: Mapping[str, list[str]]) -> Iterator[tuple[str, int]]:
    """(computation, times) of what an operation runs as steps of its own; a fusion's inside is part of its estimate."""
    if match := _WHILE.search(line):
        yield match[2], _trip_count(computations[match[1]])
    elif " call(" in line or " conditional(" in line or "async-start(" in line:
        for name in _CONTROL.findall(line):
            yield name, 1
        for names in _BRANCHES.findall(line):
            yield from ((name.strip().lstrip("%"), 1) for name in names.split(","))


def _trip_count(condition: list[str]) -> int:
    """The trip count of a loop from 0 to a constant, which ``scan`` and ``fori_loop`` become."""
    constants = [int(n) for line in condition for n in re.findall(r" s32\[\]\S* constant\((\d+)\)", line)]
    return max(constants, default=1)
