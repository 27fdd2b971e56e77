r"""Compiles a run's real programs for TPU slices, on any machine, and says what they cost a chip.

Example:
    python -m ldis_jax.compile --config=configs/ldis1.py --topology=v5e:4x4 --config.mesh.fsdp=16

Prints memory against the chip's, FLOPs, bytes, what travels between chips, and the compiler's own estimate of the time,
for a training step and a prediction; config.mesh says how they use the chips. Needs no TPU, no weights and no data, but
libtpu (pip install -c constraints.txt -e '.[compile]') and, at full size, 6 to 53 minutes a training step on two CPU
cores. Exit status 1 where a program does not fit. With --config.executable=FILE the compiled training step is written
there, and a run with the same key need not compile it. --search tries that slice and smaller ones, with more and fewer
chips that share a copy of the parameters, and prints the fastest training step that fits and the cheapest.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from ldis_jax.errors import LDISError
from ldis_jax.runtime.chips import prepare_compile_only
from ldis_jax.support import cli
from ldis_jax.support.checks import MOST_ROWS
from ldis_jax.support.config_flag import config_file, read_config

_GRIDS = "chip generation and grid of one slice: v5e:4x4, v6e:2x4, v5p:2x2x1 (default v5e:2x2)"
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", _GRIDS)
_PROGRAM = flags.DEFINE_enum("program", "both", ("train", "predict", "both"), "what to compile (default both)")
_ROWS_HELP = "over all chips; 0 is the config's, of training or evaluation"
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, _ROWS_HELP, lower_bound=0, upper_bound=MOST_ROWS)
_JSON = flags.DEFINE_string("json", "", "also write the figures to this JSON file")
_SEARCH = flags.DEFINE_bool("search", False, "try this slice and smaller ones, and options, for a training step")
_MINUTES = flags.DEFINE_float("search_minutes", 8, "of --search: begin no compilation later", lower_bound=0)


def main() -> None:
    """Entry point."""
    config = read_config(__doc__, (_TOPOLOGY, _PROGRAM, _BATCH_SIZE, _JSON, _SEARCH, _MINUTES))
    prepare_compile_only()

    from ldis_jax.costs.report import advice, compile_program, lines
    from ldis_jax.runtime import sharding
    from ldis_jax.runtime.chips import slice_devices
    from ldis_jax.support.files import check_writable, is_stream, write_json
    from ldis_jax.training.compiled_step import ReadyStep, program_facts, write_executable
    from ldis_jax.training.run import Run

    if _SEARCH.value:
        _search(config)
        return
    for path in filter(None, (_JSON.value, config.executable)):
        check_writable(path)
        cli.keep_stdout_for(path)
    devices = slice_devices(_TOPOLOGY.value, config.mesh.slices)
    programs = ("train", "predict") if _PROGRAM.value == "both" else (_PROGRAM.value,)
    if "train" in programs and _BATCH_SIZE.value:
        config.batch_size = _BATCH_SIZE.value
    run = Run.from_config(config, sharding.make_mesh(**config.mesh, devices=devices), "tpu")
    costs = {}
    for program in programs:
        batch_size = _BATCH_SIZE.value or (config.batch_size if program == "train" else config.eval.batch_size)
        waits = f"compiling {program} for {_TOPOLOGY.value}, which takes minutes at full size"
        print(waits, file=sys.stderr, flush=True)
        compiled, cost = compile_program(run, program, _TOPOLOGY.value, batch_size)
        print("\n".join(lines(cost)), flush=True)
        if not cost["fits"]:
            print(f"  try {advice(config, cost)}", flush=True)
        if program == "train" and config.executable and compiled is not None:
            write_executable(Path(config.executable), ReadyStep(compiled, cost["flops"]), program_facts(run))
            print(f"  wrote {config.executable}", flush=True)
        costs[program] = {"config": config_file(), **cost}
        if _JSON.value and (program == programs[-1] or not is_stream(_JSON.value)):
            write_json(_JSON.value, costs)
    if not all(cost["fits"] for cost in costs.values()):
        sys.exit(1)


def _search(config: ConfigDict) -> None:
    import jax

    from ldis_jax.costs.search import search
    from ldis_jax.runtime import sharding
    from ldis_jax.training.run import Run

    if _PROGRAM.value == "predict" or _JSON.value or config.executable or config.mesh.slices != 1:
        others = "--json, --program=predict, config.executable or several config.mesh.slices"
        raise LDISError(f"--search: does not go with {others}; leave them out")
    run = Run.from_config(config, sharding.make_mesh(devices=jax.devices()[:1]), "tpu")
    batch_size = _BATCH_SIZE.value or config.batch_size
    say = functools.partial(print, flush=True)
    if not search(run, sys.argv[1:], _TOPOLOGY.value, batch_size, _MINUTES.value, say):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
