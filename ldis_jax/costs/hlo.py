"""Reads a compiled TPU program: the compiler's own cycle estimates, and what travels between chips."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CONTROL = re.compile(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CALLS = re.compile(r"calls=%?([\w.\-]+)")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_ARRAY = re.compile(r"(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_NETWORK = re.compile(
    r"= \((\w+\[[\d,]*\]).* recv\(.*"  # what a host hands back, of an exchange with other slices that it runs
    r'_xla_megascale_target="\{([^}]*)\}.*_xla_megascale_transfer_type="(\w+)"'
)
_GROUPS = re.compile(r"replica_groups=(\{\{[\d,]+\}|\[\d+,\d+\]|mesh\[[^\]]*\] \{[^}]*\})")

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


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange between chips, of all its occurrences.

    Attributes:
        kind: XLA's name.
        group: chips that take part in each.
        network: whether it goes over the data-centre network, between chips of different slices.
        count: how many are executed.
        bytes: received by a chip over all of them, where the work is shared in a ring.
    """

    kind: str
    group: int
    network: bool
    count: int
    bytes: int


def estimated_cycles(text: str) -> dict[str, int]:
    """Cycles of one execution by part, largest first: operations' estimates, bodies of loops as often as they run.

    A part is a network, what it does and where: "unet backward/attention", by the name scopes of the code; what is
    computed again for a backward pass counts to it. A fusion counts to the part of its last operation. Operations
    without an estimate, collectives and opaque kernels, count nothing.
    """
    parts: collections.Counter[str] = collections.Counter()
    for _, line, times in _executed(text):
        if cycles := sum(map(int, _CYCLES.findall(line))):
            parts[_part(line)] += times * cycles
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


def collectives(text: str) -> list[Collective]:
    """The exchanges between chips in one execution, largest first."""
    found: dict[tuple[str, int, bool], list[int]] = collections.defaultdict(lambda: [0, 0])
    # An exchange that is spread over several fusions is in each of them, with one channel. Of the TPU compiler's
    # reduce-scatters, those that it has combined share a channel, and are exchanges of their own.
    seen = set()
    for name, line, times in _executed(text, fusions=True):
        channel, scattered = _CHANNEL.search(line), "all-reduce-scatter" in name
        network = False
        if (match := _COLLECTIVE.search(line)) and (scattered or channel is None or channel[1] not in seen):
            seen.add(channel and channel[1])
            kind, group = match[2], _group_size(line)
            sizes = [_bytes(*array) for array in _ARRAY.findall(match[1])]
            # Several results are several arrays in one exchange, but a start of these kinds lists operands, too.
            operands = match[3] and kind in ("all-gather", "collective-permute")
            size = max(sizes, default=0) if operands else sum(sizes)
            if scattered:
                kind = "reduce-scatter"  # the TPU compiler's form: an all-reduce of which each keeps its part
            elif kind == "reduce-scatter":
                size *= group
        elif match := _NETWORK.search(line):
            network = True
            kind, group = match[3].lower().replace("_", "-"), match[2].count(",") + 1
            size = _bytes(*_ARRAY.findall(match[1])[0]) * (group if kind == "reduce-scatter" else 1)
        else:
            continue
        entry = found[kind, group, network]
        entry[0] += times
        entry[1] += times * _received(kind, size, group)
    every = [Collective(*key, n, size) for key, (n, size) in found.items() if key[1] > 1]
    return sorted(every, key=lambda c: -c.bytes)


def _executed(text: str, fusions: bool = False) -> Iterator[tuple[str, str, int]]:
    """(computation, line, times) of every operation, bodies of loops as often as they run, fusions' insides on demand.

    An operation comes before those that it runs.
    """
    computations = _split(text)

    def visit(name: str, times: int) -> Iterator[tuple[str, str, int]]:
        for line in computations.get(name, ()):
            yield name, line, times
            for called, n in _called(line, computations):
                yield from visit(called, times * n)
            for called in _CALLS.findall(line) if fusions else ():
                yield from visit(called, times)

    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    assert entry is not None
    return visit(entry[1], 1)


def _received(kind: str, size: int, group: int) -> int:
    """Bytes that reach each chip of a ring; ``size`` is of the result, of a reduce-scatter of all parts of it."""
    share = (group - 1) / group
    return int(size * (2 * share if kind == "all-reduce" else share if kind != "collective-permute" else 1))


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


def _bytes(kind: str, dims: str) -> int:
    bits = 8 if kind == "pred" or kind.startswith("f8") else int(re.sub(r"\D", "", kind))
    return math.prod(int(n) for n in dims.split(",") if n) * bits // 8


def _group_size(line: str) -> int:
    match = _GROUPS.search(line)
    if match is None:
        return 2 if "source_target_pairs" in line else 1
    groups = match[1]
    if groups.startswith("mesh["):  # mesh['a'=2,'b'=4] {'b'}: the axes in braces
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", groups.partition("{")[2]))
    if groups.startswith("["):
        return int(groups.strip("[]").split(",")[1])
    return groups.count(",") + 1
