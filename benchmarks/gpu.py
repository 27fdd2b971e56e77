"""What LDIS does on a GPU, in one run of at most eight minutes; ``benchmarks/gpu.sh`` prepares a machine and calls it.

    python benchmarks/gpu.py --json=gpu.json

Parity of the networks and tasks with torch's golden files, in float32 on the GPU; LDIS-1's and LDIS-n's prediction and
a training step beside the same in torch, compiled, both in bfloat16, and the share of the measured rate of a matrix
product that they reach; a minute of ``configs/tiny.py``'s training; the exported file beside the pipeline. A part that
fails is reported, and the others go on; the exit status is then 1. ``--micro`` runs it all with the smallest networks,
on any machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed import SIDES, make_folder, rows_of, task_name  # noqa: E402 (after the path)

PARTS = {False: ("ldis1/32", "ldisn/1/8", "train/64"), True: ("ldis1/2", "ldisn/1/2", "train/2")}
PARITY = ("tests/parity/test_parity.py", "tests/parity/test_tasks.py")
MATMUL = 8192  # rows and columns of the product that the rate is measured with
REPEATS = 5
TRAINING_SECONDS = 60
# Both sides are on the device at once, and neither may take all of its memory.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def parity(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The package's own tests against torch's golden files, on the device, products in full float32."""
    exact = {"LDIS_JAX_TEST_PLATFORM": args.platform, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    chosen = ["-k", "tokens"] if args.micro else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *PARITY, *chosen]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | exact, capture_output=True, text=True, check=False, timeout=240
    )
    words = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    if done.returncode:
        raise RuntimeError(f"{words}\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return {"pytest": words.strip("= ")}


def matmul_rate(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """bfloat16 operations a second of one large product, the median of several rounds of ten."""
    import jax
    import jax.numpy as jnp

    side = 256 if args.micro else MATMUL
    a, b = (jax.random.normal(jax.random.key(i), (side, side), jnp.bfloat16) for i in range(2))
    multiply = jax.jit(lambda a, b: (a @ b) / side**0.5)
    jax.block_until_ready(multiply(a, b))
    rates = []
    for _ in range(REPEATS):
        start, x = time.perf_counter(), a
        for _ in range(10):
            x = multiply(x, b)
        jax.block_until_ready(x)
        rates.append(10 * 2 * side**3 / (time.perf_counter() - start))
    return {"device": jax.devices()[0].device_kind, "tflops": statistics.median(rates) / 1e12}


def beside_torch(part: str) -> Callable[[argparse.Namespace, Path], dict[str, Any]]:
    """Measures a part of benchmarks/speed.py: the two sides compile together and are timed one after the other."""

    def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
        folder = work / task_name(part)
        if not folder.exists():
            make_folder(folder, task_name(part), args.micro)
        options = [f"--dtype={args.dtype}", f"--repeats={REPEATS}", "--num_steps=20", "--wait"]
        command = [sys.executable, str(ROOT / "benchmarks" / "speed.py"), *options, "--worker"]
        found: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            errors = {side: work / f"{side}.txt" for side in SIDES}
            sides = {
                side: stack.enter_context(_started([*command, side, str(folder), part], errors[side])) for side in SIDES
            }
            for side, process in sides.items():
                assert process.stdout is not None
                if "ready\n" not in iter(process.stdout.readline, ""):  # libraries may print before
                    raise RuntimeError(f"{side}: {errors[side].read_text()[-2000:]}")
            for side, process in sides.items():
                out, _ = process.communicate("go\n")
                if process.returncode:
                    raise RuntimeError(f"{side}: {errors[side].read_text()[-2000:]}")
                figures = json.loads(out.splitlines()[-1])
                found[side] = figures | {"seconds": statistics.median(figures["seconds"])}
        found["time_ratio"] = found["jax"]["seconds"] / found["torch"]["seconds"]
        found["memory_ratio"] = found["jax"]["peak_bytes"] / found["torch"]["peak_bytes"]
        found["tflop"] = flops(part, folder) / 1e12
        return found

    return measure


def flops(part: str, folder: Path) -> float:
    """Matrix products and convolutions of a part, by the traced program; runs nothing."""
    import jax

    from ldis_jax.config import base_config
    from ldis_jax.runtime import sharding
    from ldis_jax.training.programs import mathematical_flops
    from ldis_jax.training.run import Run

    config = base_config(task_name(part))
    config.init.folder, config.task = str(folder), {}
    batch, config.num_shots = rows_of(part)
    run = Run.from_config(config, sharding.make_mesh(devices=jax.devices()[:1]), "gpu")
    return mathematical_flops(run, "train" if part.startswith("train") else "predict", batch)


def tiny_training(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """A minute of the main example, stopped as a machine that is taken away stops it."""
    config = ["--config=tests/costs/micro.py", f"--config.init.folder={work / 'ldis1'}"] if args.micro else []
    command = [sys.executable, "-m", "ldis_jax.main", *(config or ["--config=configs/tiny.py"])]
    run = work / "run"
    command += [f"--workdir={run}", f"--config.log_every={2 if args.micro else 10}"]
    with _started(command, work / "training.txt") as process:
        try:
            process.communicate(timeout=TRAINING_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "train/loss" in line]
    speeds = [line["train/steps_per_second"] for line in losses]
    return {
        "steps": losses[-1]["step"],
        "loss": [losses[0]["train/loss"], losses[-1]["train/loss"]],
        "steps_per_second": statistics.median(speeds),
    }


def exported(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The exported file's R beside the pipeline's, of the bundled model."""
    import jax
    from safetensors.flax import load_file

    from ldis_jax import LDISPipeline

    folder = work / "ldis1" if args.micro else "tiny"
    pipe, path = LDISPipeline.from_pretrained(folder), work / "exported.safetensors"
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    pipe.export(path, platforms=[platform])
    weights = load_file(path)
    program = jax.export.deserialize(bytearray(np.asarray(weights.pop("program"))))
    size = pipe.task.image_size
    rng = np.random.default_rng(0)
    query, images = (
        rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((1, size, size, 3), (1, 1, size, size, 3))
    )
    masks = np.zeros((1, 1, size, size), np.uint8)
    masks[:, :, : size // 2] = 1
    inputs = {"query": query, "prompt_images": images, "prompt_masks": masks, "num_prompts": np.ones(1, np.int32)}
    found, expected = (np.asarray(r) for r in (program.call(weights, inputs), pipe.predict(query, images, masks)))
    worst = float(np.abs(found - expected).max())
    if worst > 1e-2:  # products may be rounded as the compiler likes on a GPU
        raise RuntimeError(f"R of the exported file differs by {worst}")
    return {"platform": platform, "largest_difference": worst}


@contextlib.contextmanager
def _started(command: list[str], errors: Path) -> Iterator[subprocess.Popen[str]]:
    # Errors go to a file: a pipe that nobody reads fills, and what writes to it waits for ever.
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with errors.open("w") as stderr, subprocess.Popen(command, cwd=ROOT, text=True, stderr=stderr, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def row(name: str, figures: dict[str, Any], rate: float | None) -> str:
    """One line for people."""
    if "error" in figures:
        return f"| {name} | failed: {figures['error'].strip().splitlines()[0][:120]} |"
    if "time_ratio" not in figures:
        return f"| {name} | {json.dumps({key: value for key, value in figures.items() if key != 'seconds'})} |"
    ours, peer = (figures[side]["seconds"] for side in SIDES)
    share = f", {figures['tflop'] / ours / rate:.2f} of the product's rate" if rate else ""
    memory = " and ".join(f"{figures[side]['peak_bytes'] / 1e9:.1f} GB" for side in SIDES)
    times = f"{1e3 * ours:.1f} ms, torch {1e3 * peer:.1f} ms, ratio {figures['time_ratio']:.2f}"
    return f"| {name} | {times}{share}; {memory} |"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro", action="store_true", help="the smallest networks, on any machine")
    parser.add_argument("--json", help="write the figures to this file, after each part")
    parser.add_argument("--minutes", type=float, default=8, help="no part begins later (default 8)")
    parser.add_argument("--only", nargs="+", default=(), help="parts to run, as the table names them")
    args = parser.parse_args()
    os.environ.update(SHARED)
    import jax

    args.platform = "cpu" if jax.default_backend() == "cpu" else "cuda"
    args.dtype = "float32" if args.platform == "cpu" else "bfloat16"
    if args.platform == "cpu" and not args.micro:
        parser.error("no GPU found; --micro tries it without one")
    parts: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {"matmul": matmul_rate, "parity": parity}
    parts |= {part: beside_torch(part) for part in PARTS[args.micro]}
    parts |= {"tiny training": tiny_training, "export": exported}
    from ldis_jax.support.files import write_json

    found: dict[str, Any] = {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        for name, run in parts.items():
            if args.only and name not in args.only:
                continue
            began = time.perf_counter()
            if began - start > 60 * args.minutes:
                figures: dict[str, Any] = {"error": f"not begun after {args.minutes:g} minutes"}
            else:
                try:
                    figures = run(args, Path(work))
                except Exception as error:  # whatever it is, the other parts' figures are wanted
                    figures = {"error": f"{type(error).__name__}: {error}"}
            found[name] = figures | {"took": round(time.perf_counter() - began, 1)}
            print(row(name, found[name], found.get("matmul", {}).get("tflops")), flush=True)
            if args.json:
                write_json(args.json, found)
    for name, figures in found.items():
        if "error" in figures:
            print(f"{name}: {figures['error']}", file=sys.stderr)
    sys.exit(any("error" in figures for figures in found.values()))


if __name__ == "__main__":
    main()
