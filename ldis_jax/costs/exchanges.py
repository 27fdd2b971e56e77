"""Exchanges between chips in the text of a compiled TPU program: what travels, and how much of it beside compute."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

from ldis_jax.costs.hlo import Operation, executed

_ARRAY = re.compile(r"(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(")
_RESULT = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) =")
_DONE = re.compile(r" (?:all-reduce|all-gather|collective-permute)-done\(.*?%?([\w.\-]+)\)")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_NETWORK = re.compile(
    r"= \((\w+\[[\d,]*\]).* recv\(.*"  # what a host hands back, of an exchange with other slices that it runs
    r'_xla_megascale_target="\{([^}]*)\}.*_xla_megascale_transfer_type="(\w+)"'
)
_GROUPS = re.compile(r"replica_groups=(\{\{[\d,]+\}|\[\d+,\d+\]|mesh\[[^\]]*\] \{[^}]*\})")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange between chips, of all its occurrences.

    Attributes:
        kind: XLA's name.
        group: chips that take part in each.
        network: whether it goes over the data-centre network, between chips of different slices.
        count: how many are executed.
        bytes: received by a chip over all of them, where the work is shared in a ring.
        hidden_bytes: how many of them can travel while the chip computes, by the schedule.
    """

    kind: str
    group: int
    network: bool
    count: int
    bytes: int
    hidden_bytes: int


@dataclasses.dataclass
class _Travelling:
    """One exchange on its way, by its kind; bytes that are left."""

    key: tuple[str, int, bool]
    left: float


def collectives(text: str, rate: float) -> list[Collective]:
    """The exchanges between chips in one execution, largest first.

    An exchange travels beside compute in two forms: as a pair of operations, start and done, while all between them
    runs; and as part of fusions that compute something else, while those run. What is computed counts for one exchange
    alone. Exchanges over the network never count as hidden.

    Args:
        text: of the program, in the order of its schedule.
        rate: bytes that the links of a chip carry in a cycle.
    """
    found: dict[tuple[str, int, bool], list[float]] = collections.defaultdict(lambda: [0, 0, 0])
    chains: dict[str, _Travelling] = {}  # those that are spread over fusions, which all name their chain
    started: dict[str, _Travelling] = {}  # by name of the start, in their order
    for operation, times in executed(text):
        carried = []
        for chain, travelling in _exchanges(operation):
            if chain in chains:
                carried.append(chains[chain])
                continue
            entry = found[travelling.key]
            entry[0] += times
            entry[1] += times * int(travelling.left)
            if chain:
                chains[chain] = travelling
            if (match := _COLLECTIVE.search(operation.line)) and match[3]:
                result = _RESULT.match(operation.line)
                assert result is not None
                started[result[1]] = travelling
        if match := _DONE.search(operation.line):
            started.pop(match[1], None)
        room = rate * operation.cycles
        for travelling in (*carried, *started.values()):
            hidden = min(room, travelling.left)
            travelling.left -= hidden
            room -= hidden
            found[travelling.key][2] += times * hidden
    every = [Collective(*key, int(n), int(size), int(hidden)) for key, (n, size, hidden) in found.items() if key[1] > 1]
    return sorted(every, key=lambda c: -c.bytes)


def _exchanges(operation: Operation) -> Iterator[tuple[str, _Travelling]]:
    """(chain or "", exchange) of what an operation or its inside exchanges."""
    for name, line in (("", operation.line), *operation.inside):
        chain = match[1] if (match := _CHAIN.search(line)) else ""
        if match := _NETWORK.search(line):
            kind, group = match[3].lower().replace("_", "-"), match[2].count(",") + 1
            size = _bytes(*_ARRAY.findall(match[1])[0]) * (group if kind == "reduce-scatter" else 1)
            yield chain, _Travelling((kind, group, True), _received(kind, size, group))
        if (match := _COLLECTIVE.search(line)) is None:
            continue
        kind, group = match[2], _group_size(line)
        sizes = [_bytes(*array) for array in _ARRAY.findall(match[1])]
        # Several results are several arrays in one exchange, but a start of these kinds lists operands, too.
        operands = match[3] and kind in ("all-gather", "collective-permute")
        size = max(sizes, default=0) if operands else sum(sizes)
        if "all-reduce-scatter" in name:
            kind = "reduce-scatter"  # the TPU compiler's form: an all-reduce of which each keeps its part
        elif kind == "reduce-scatter":
            size *= group
        yield chain, _Travelling((kind, group, False), _received(kind, size, group))


def _received(kind: str, size: int, group: int) -> int:
    """Bytes that reach each chip of a ring; ``size`` is of the result, of a reduce-scatter of all parts of it."""
    share = (group - 1) / group
    return int(size * (2 * share if kind == "all-reduce" else share if kind != "collective-permute" else 1))


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
