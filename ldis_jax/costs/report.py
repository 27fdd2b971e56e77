"""Costs of one compiled program per chip, as a dictionary for JSON and as lines for people."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ldis_jax.costs.exchanges import collectives
from ldis_jax.costs.hlo import estimated_cycles, unmodelled_custom_calls
from ldis_jax.runtime import sharding
from ldis_jax.runtime.chips import Chip, get_chip
from ldis_jax.runtime.memory import memory_options, out_of_memory
from ldis_jax.training.programs import PROGRAMS, mathematical_flops
from ldis_jax.training.run import Run

_PARTS_SHOWN = 6
_RESERVED = 0.02  # of a chip's memory: the runtime's own, and what a program's buffers lose to alignment
_NEEDED = re.compile(r"(?:required.*?\(|Used )([\d.]+)([KMGT])")  # as the compiler says it, in powers of 1024
# What is only known of a program that the compiler made.
_OF_THE_PROGRAM = (
    *("argument_bytes", "temp_bytes", "bytes_accessed", "predicted_ms", "predicted_compute_ms"),
    *("predicted_compute_ms_by_part", "predicted_exchange_ms", "predicted_unhidden_ms"),
    *("predicted_mfu", "unmodelled_custom_calls"),
)


def compile_program(
    run: Run, program: str, topology: str, batch_size: int
) -> tuple[jax.stages.Compiled | None, dict[str, Any]]:
    """Compiles for a slice and reads off the costs; minutes at full size.

    Args:
        run: with the mesh of the topology's devices.
        program: "train" or "predict".
        topology: such as "v5e:4x4".
        batch_size: over all chips.

    Returns:
        The program, and its costs, JSON-able, per chip: memory ("argument_bytes", "temp_bytes", "peak_bytes" against
        "chip_bytes", "fits"), "flops" of the mathematics, "bytes_accessed", "collectives", "predicted_ms" and its two
        parts, compute (also by part of the program) and the exchange that is not hidden behind it, all of the exchange,
        "predicted_mfu", "unmodelled_custom_calls", which no prediction knows; and what was compiled. Where the compiler
        refuses a program for want of memory there is none: its "peak_bytes" are what the compiler says it needs, its
        times and all else that only the program tells are None.
    """
    chip, mesh = get_chip(topology), run.mesh
    lowered = PROGRAMS[program](run, batch_size).trace().lower()
    cost: dict[str, Any] = {
        "program": program,
        "topology": topology,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size": batch_size,
        "chip_bytes": chip.memory,
        "flops": mathematical_flops(run, program, batch_size),
        "replicated": sharding.large_replicated(run.shapes[1], mesh) if program == "train" else [],
    }
    compiled, started = None, time.perf_counter()
    try:
        compiled, text = compile_with_text(lowered)
    except jax.errors.JaxRuntimeError as error:
        if (words := out_of_memory(error)) is None:
            raise
        figures = _refused(words)
    else:
        figures = _figures(compiled, text, chip, cost["flops"])
    return compiled, cost | figures | {"compile_seconds": round(time.perf_counter() - started, 1)}


def _figures(compiled: jax.stages.Compiled, text: str, chip: Chip, flops: float) -> dict[str, Any]:
    """The figures that the compiler reports for a program."""
    memory, accessed = compiled.memory_analysis(), compiled.cost_analysis()
    assert memory is not None and accessed is not None  # the TPU compiler has both of every program
    arguments, temp = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes  # donated ones lie where arguments lay
    peak = arguments + temp + results + memory.generated_code_size_in_bytes
    parts = {part: cycles / chip.clock for part, cycles in estimated_cycles(text).items()}
    compute = sum(parts.values())
    found = collectives(text, chip.link / chip.clock)
    exchange = sum(collective.bytes / (chip.network if collective.network else chip.link) for collective in found)
    unhidden = exchange - sum(collective.hidden_bytes for collective in found) / chip.link
    return {
        "argument_bytes": arguments,
        "temp_bytes": temp,
        "peak_bytes": peak,
        "fits": peak <= (1 - _RESERVED) * chip.memory,
        "bytes_accessed": accessed["bytes accessed"],
        "collectives": [dataclasses.asdict(collective) for collective in found],
        "predicted_ms": 1e3 * (compute + unhidden),
        "predicted_compute_ms": 1e3 * compute,
        "predicted_compute_ms_by_part": {part: round(1e3 * seconds, 3) for part, seconds in parts.items()},
        "predicted_exchange_ms": 1e3 * exchange,
        "predicted_unhidden_ms": 1e3 * unhidden,
        "predicted_mfu": flops / chip.flops / (compute + unhidden),
        "unmodelled_custom_calls": unmodelled_custom_calls(text),
    }


def _refused(words: str) -> dict[str, Any]:
    """The same of a program that the compiler refused; ``words`` say what it needs."""
    match = _NEEDED.search(words)
    needed = int(float(match[1]) * 1024 ** ("KMGT".index(match[2]) + 1)) if match else None
    return dict.fromkeys(_OF_THE_PROGRAM) | {"peak_bytes": needed, "fits": False, "collectives": []}


def compile_with_text(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, str]:
    """Compiles for TPU; returns the program and its optimized text.

    XLA cannot read every program of its own back (LDIS-1's step for v6e and libtpu 0.0.52: "Async done requires its
    operand to be an asynchronous op"); the text is then what the compiler wrote on its way.
    """
    with tempfile.TemporaryDirectory() as folder:
        compiled = lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        try:
            text = compiled.as_text()
        except jax.errors.JaxRuntimeError:
            text = next(Path(folder).glob("*.after_codegen.txt")).read_text(encoding="utf-8")
    assert text is not None
    return compiled, text


def advice(config: ConfigDict, cost: dict[str, Any]) -> str:
    """Advice on what to change where a program does not fit."""
    if cost["program"] == "predict":
        return "lower --batch_size"
    return memory_options(config, cost["mesh"]["fsdp"] * cost["mesh"]["data"])


def lines(cost: dict[str, Any]) -> list[str]:
    """The report of one program, a line each."""

    def gb(name: str) -> str:
        return f"{cost[f'{name}_bytes'] / 1e9:.2f}"

    mesh = " x ".join(f"{name} {size}" for name, size in cost["mesh"].items() if size > 1) or "one chip"
    report = [f"{cost['program']}, batch {cost['batch_size']}, {cost['topology']} ({mesh})"]
    of_chip = f"of {cost['chip_bytes'] / 1e9:.0f} GB a chip"
    if cost["predicted_ms"] is None:
        needed = f"{gb('peak')} {of_chip}" if cost["peak_bytes"] else f"more than the {cost['chip_bytes'] / 1e9:.0f} GB"
        return [*report, f"  does not fit: {needed}; the compiler refuses it, so there is no program to predict from"]
    compute, exchange = cost["predicted_compute_ms"], cost["predicted_exchange_ms"]
    unhidden = cost["predicted_unhidden_ms"]
    report += [
        f"  {'fits' if cost['fits'] else 'does not fit'}: {gb('peak')} {of_chip} "
        f"(arguments {gb('argument')}, temporaries {gb('temp')})",
        f"  {cost['flops'] / 1e12:.2f} TFLOP, {cost['bytes_accessed'] / 1e9:.1f} GB accessed; predicted {compute:.1f} "
        f"ms of compute + {unhidden:.1f} ms of exchange ({exchange - unhidden:.1f} ms more are hidden), "
        f"MFU {cost['predicted_mfu']:.2f}",
    ]
    largest = list(cost["predicted_compute_ms_by_part"].items())[:_PARTS_SHOWN]
    report.append("  most of it: " + ", ".join(f"{part} {ms:.1f}" for part, ms in largest))
    if cost["unmodelled_custom_calls"]:
        report.append(f"  {cost['unmodelled_custom_calls']} custom calls have no estimate and are left out")
    report += [
        f"  {c['count']} {c['kind']} among {c['group']} {'slices' if c['network'] else 'chips'}: "
        f"{c['bytes'] / 1e6:.1f} MB received, {c['hidden_bytes'] / 1e6:.1f} of them beside compute"
        for c in cost["collectives"]
    ]
    if cost["replicated"]:
        report.append(f"  warning: large parameters stay whole on every chip: {'; '.join(cost['replicated'][:5])}")
    return report
