"""What asynchronous saves cost training: steps with a save every N of them beside steps without, in turn, in one run.

    python benchmarks/checkpoint.py --config=configs/tiny.py --every=50 --json=checkpoint.json

A block is N steps of the config's own model on one batch that stays on the device; every second block begins with a
save by the class that training uses, and the rest of the save runs beside the block's steps. Blocks come in pairs, in
changing order; a save that outlasts its block is waited for, and that time counts as its cost.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from ldis_jax.runtime import sharding
from ldis_jax.support.files import write_json
from ldis_jax.training.checkpoint import Checkpoints
from ldis_jax.training.loop import make_loader
from ldis_jax.training.run import Run
from ldis_jax.training.step import StepMetrics, init_state, make_train_step


class Trainer:
    """A training step with all that it needs, as in ``train.py``."""

    def __init__(self, config: ConfigDict):
        """Compiles the step of a config and takes it once."""
        mesh = sharding.make_mesh(**config.mesh)
        run = Run.from_config(config, mesh, jax.default_backend())
        graphdef, params, frozen, _ = run.start()
        self.state, placed = init_state(params, run.optimizer, mesh)
        self._step = make_train_step(run.task, graphdef, run.optimizer, config.seed, mesh, placed)
        whole = sharding.replicated(mesh)
        self._frozen, self._metrics = jax.device_put(frozen, whole), jax.device_put(StepMetrics.empty(), whole)
        with make_loader(run) as loader:
            batch = next(loader)
        batch.pop("bad_files")
        self._batch = sharding.to_devices(batch, mesh)
        self.run(1)

    def run(self, steps: int) -> None:
        """Takes steps and waits for the last."""
        for _ in range(steps):
            self.state, metrics = self._step(self.state, self._metrics, self._frozen, self._batch)
        jax.block_until_ready(metrics)


def measure(trainer: Trainer, every: int, pairs: int, folder: Path) -> dict[str, list[float]]:
    """{"with": seconds a step in every block with a save, "without": in every other one}."""
    times: dict[str, list[float]] = {"with": [], "without": []}

    def block(kind: str) -> None:
        with Checkpoints(folder, 1, {}) as checkpoints:
            start = time.perf_counter()
            if kind == "with":
                checkpoints.save(trainer.state, {"step": int(trainer.state.step)})
            trainer.run(every)
            checkpoints.wait()
            times[kind].append((time.perf_counter() - start) / every)

    block("with")  # compiles the checksum; not counted
    times["with"].clear()
    for pair in range(pairs):
        for kind in ("with", "without") if pair % 2 else ("without", "with"):
            block(kind)
    return times


def main() -> None:
    """Prints the ratio and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--every", type=int, default=50, help="steps in a block")
    parser.add_argument("--pairs", type=int, default=8, help="of blocks")
    parser.add_argument("--folder", help="where to write; by default a temporary folder")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    spec = importlib.util.spec_from_file_location("config", args.config)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    jax.config.update("jax_num_cpu_devices", config.cpu_devices)

    trainer = Trainer(config)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        times = measure(trainer, args.every, args.pairs, Path(folder) / "checkpoints")
    ratios = sorted(a / b for a, b in zip(times["with"], times["without"], strict=True))
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    ratio, cost = statistics.median(ratios), (medians["with"] - medians["without"]) * args.every
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(trainer.state))
    share = cost / (config.checkpoint_every * medians["without"])
    print(
        f"{args.config}, {size / 2**20:.0f} MiB of state, a save every {args.every} steps: "
        f"{1e3 * medians['with']:.2f} ms a step, without {1e3 * medians['without']:.2f} ms; ratio {ratio:.4f} "
        f"({ratios[0]:.4f} to {ratios[-1]:.4f}); {1e3 * cost:.0f} ms a save, {share:.2%} of the time at this config's "
        f"checkpoint_every={config.checkpoint_every}"
    )
    if args.json:
        figures: dict[str, Any] = {"config": args.config, "every": args.every, "state_bytes": size, "ratio": ratio}
        figures |= {"ratios": ratios, "seconds_a_step": times, "seconds_a_save": cost}
        figures |= {"checkpoint_every": config.checkpoint_every, "device": jax.devices()[0].device_kind}
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
