"""Trains and measures the variants of docs/evidence.md, one after the other, each with three seeds.

    python benchmarks/evidence/small_data.py --source=FOLDER
    python benchmarks/evidence/sweep.py --minutes=400
    python benchmarks/evidence/report.py

A result that is there is not made again, and a run that was stopped goes on: give the same command again.
``--only ldis1 ldisn`` limits it to these variants.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ldis_jax.support import cli

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "evidence" / "results"
RUNS = Path("runs/evidence")
SEEDS = (1, 2, 3)
# Those whose scores are fitted.
SCORED = ("ldis1_scored", "ldis1_absent", "ldisn_scored", "ldisn_absent")
# What is measured beside a run's own evaluation.
PROBES = {"ldis1": ("shots", "wrong_prompts"), "ldisn": ("shots", "wrong_prompts", "sampling")}
PROBES |= dict.fromkeys(SCORED, ("absence",))
PROBE_EPISODES = 128
# In this order: the next seed starts when all variants have one before it.
VARIANTS = (
    *("ldis1", "ldis1_pre_mask", "ldis1_post_mask", "ldis1_no_mask", "ldis1_pixel"),
    *("ldisn", "ldisn_vanilla", "ldisn_alpha20", "ldisn_alpha60", "ldisn_perturbed", "ldisn_epsilon"),
    *SCORED,
    *("joint", "only_images", "only_objects", "only_semantic", "joint_lora1", "joint_lora4", "joint_lora16"),
)


def result_path(variant: str, seed: int) -> Path:
    """Of one run."""
    return RESULTS / f"{variant}-{seed}.json"


def config_of(variant: str) -> str:
    """The value of --config."""
    return f"configs/evidence.py:{variant}"


def run(variant: str, seed: int) -> None:
    """Trains and measures, and stores the figures."""
    from benchmarks.evidence import pictures
    from benchmarks.evidence.probes import Probe
    from ldis_jax.support.files import write_json
    from ldis_jax.weights.model_folder import model_hash

    workdir, started = RUNS / f"{variant}-{seed}", time.time()
    if (workdir / "report.json").is_file():  # finished, and its figures are asked for again: perhaps of other code
        shutil.rmtree(workdir)
    command = [sys.executable, "-m", "ldis_jax.main", f"--config={config_of(variant)}", f"--workdir={workdir}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [*command, f"--config.seed={seed}"], env=environment, check=False, capture_output=True, text=True
    )
    if finished.returncode or not (workdir / "report.json").is_file():
        raise SystemExit(f"{variant}-{seed}: {finished.stderr.strip()[-2000:]}")
    report: dict[str, Any] = json.loads((workdir / "report.json").read_text(encoding="utf-8"))
    probe = Probe(workdir / "model", PROBE_EPISODES)
    probed = {name: getattr(probe, name)() for name in PROBES.get(variant, ())}
    # What is rendered for photographs is not ours to publish.
    if seed == SEEDS[0] and variant.startswith("ldis") and variant not in SCORED:
        pictures.store(probe.painted(), result_path(variant, seed).with_suffix(".png"))
    facts = {
        "variant": variant,
        "seed": seed,
        "config": config_of(variant),
        "model_hash": model_hash(workdir / "model"),
        "seconds": round(time.time() - started, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")},
    }
    write_json(result_path(variant, seed), {**facts, "report": report, **probed})
    print(f"{variant}-{seed}: mIoU {report['miou']:.2f}, {facts['seconds']:.0f} s", flush=True)


def main() -> None:
    """Makes what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=400, help="no run starts later; default 400")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS, help="these variants")
    args = parser.parse_args()
    end = time.time() + 60 * args.minutes
    for variant, seed in ((variant, seed) for seed in SEEDS for variant in VARIANTS):
        if variant in args.only and not result_path(variant, seed).is_file() and time.time() < end:
            run(variant, seed)


if __name__ == "__main__":
    cli.run(main)
