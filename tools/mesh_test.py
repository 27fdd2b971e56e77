"""Trains one run on other meshes and numbers of processes, and compares each with the run on one device.

    python tools/mesh_test.py

The run is that of ``tools/crash_config.py``: 40 steps on a mixture, in float32. Devices are parts of this machine's
CPU; two processes are joined by ``jax.distributed``. Episodes must be the same to the bit; losses and parameters differ
by the order in which sums are taken, which 40 steps of Adam make larger.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.kill_test import Run  # noqa: E402

# Name -> (processes, flags); the first is what the others are compared with.
MESHES: dict[str, tuple[int, tuple[str, ...]]] = {
    "1 device": (1, ("--config.cpu_devices=1",)),
    "data 8": (1, ("--config.cpu_devices=8",)),
    "fsdp 8": (1, ("--config.cpu_devices=8", "--config.mesh.fsdp=8")),
    "data 2 x fsdp 4": (1, ("--config.cpu_devices=8", "--config.mesh.fsdp=4")),
    "2 processes, data 2": (2, ()),
    "2 processes, fsdp 2": (2, ("--config.mesh.fsdp=2",)),
}


def deviations(run: Run, truth: Run) -> dict[str, float]:
    """How far a run is from another.

    Returns:
        "first_loss" and "losses", the largest difference relative to the loss, of the first step and of all; "params",
        the largest difference of any parameter relative to the largest absolute value in its array.
    """
    losses, expected = run.losses(), truth.losses()
    relative = {step: abs(losses[step] - loss) / loss for step, loss in expected.items()}
    arrays, states = run.state(), truth.state()
    params = [name for name in states if "params" in name.split("]")[0] and states[name].any()]
    return {
        "first_loss": relative[min(relative)],
        "losses": max(relative.values()),
        "params": max(float(np.abs(arrays[n] - states[n]).max() / np.abs(states[n]).max()) for n in params),
    }


def main() -> None:
    """Prints a row a mesh; exit status 1 where episodes differ."""
    logging.set_verbosity(logging.ERROR)  # Orbax's word on what a checkpoint of ours need not have
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    different = False
    with tempfile.TemporaryDirectory() as folder:
        truth = None
        print("| mesh | episodes | first loss | losses of 40 steps | parameters after them |\n|---|---|---|---|---|")
        for name, (processes, flags) in MESHES.items():
            run = Run(Path(folder) / name.replace(" ", "_"), Path(folder) / "cache")
            run.finish(*flags, processes=processes)
            truth = truth or run
            same, found = run.batches() == truth.batches(), deviations(run, truth)
            different |= not same
            figures = " | ".join(f"{value:.1e}" for value in found.values())
            print(f"| {name} | {'the same' if same else 'others'} | {figures} |", flush=True)
    sys.exit(different)


if __name__ == "__main__":
    main()
