"""Kills training with SIGKILL at random moments, and compares what it comes to with a run that nobody touched.

    python tools/kill_test.py --kills 20

The moments are drawn from a seed and fall, in turn, into the making of a batch, a step, a save, and anywhere. Runs of
40 steps take some kills each, one a launch, and then end by themselves; their parameters, optimizer state and losses
must be those of the untouched run bit for bit, and so must every batch that was ever made.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # to read checkpoints here

from ldis_jax.training.checkpoint import saved_steps  # noqa: E402
from ldis_jax.training.metric_writer import read_metrics  # noqa: E402

KINDS = ("data", "step", "save", "anywhere")
_POLL = 0.002  # seconds
_COMPILE_QUICKLY = """--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"""


class Run:
    """One work folder of ``tools/crash_config.py``, and the processes that train in it."""

    def __init__(self, workdir: Path, cache: Path, *overrides: str):
        """Binds a folder, a folder for compiled programs that runs share, and flags."""
        self.workdir, self._cache, self._overrides = workdir, cache, overrides
        self.log = workdir.with_suffix(".batches")
        self.output = workdir.with_suffix(".txt")

    def beside(self, name: str) -> Run:
        """Another run of the same."""
        return Run(self.workdir.with_name(name), self._cache, *self._overrides)

    def start(self, *more: str, **environment: str) -> subprocess.Popen[bytes]:
        """Launches the command, with more flags and variables."""
        env = os.environ | {"XLA_FLAGS": _COMPILE_QUICKLY}
        env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "CRASH_LOG": str(self.log)}
        env |= {"JAX_COMPILATION_CACHE_DIR": str(self._cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        command = [sys.executable, "-m", "ldis_jax.main", f"--config={ROOT / 'tools' / 'crash_config.py'}"]
        command += [f"--workdir={self.workdir}", *self._overrides, *more]
        with self.output.open("ab") as output:
            return subprocess.Popen(command, env=env | environment, stdout=output, stderr=subprocess.STDOUT)

    def start_two(self, *more: str) -> list[subprocess.Popen[bytes]]:
        """Launches two processes of one device each, joined on this machine."""
        with socket.socket() as server:
            server.bind(("localhost", 0))
            port = server.getsockname()[1]
        shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
        flags = ("--multihost", "--config.cpu_devices=1", *more)
        return [self.start(*flags, **shared, JAX_PROCESS_ID=str(i)) for i in range(2)]

    def finish(self, *more: str, processes: int = 1) -> None:
        """Trains to the end; raises ``RuntimeError`` with the last lines where that fails."""
        started = [self.start(*more)] if processes == 1 else self.start_two(*more)
        statuses = [process.wait() for process in started]
        if any(statuses):
            raise RuntimeError(self.output.read_text(errors="replace")[-3000:])

    def steps_logged(self) -> int:
        """The last step of ``metrics.jsonl``."""
        return int(max((line["step"] for line in read_metrics(self.workdir / "metrics.jsonl")), default=0))

    def batches(self) -> dict[tuple[int, int], str]:
        """{(step, sample): hash} of all episodes ever made; an episode that came out in two ways is an error."""
        found: dict[tuple[int, int], str] = {}
        lines = [line.split() for line in self.log.read_text().splitlines() if line]
        for step, process, *hashes in lines:
            for i, value in enumerate(hashes):
                sample = int(process) * len(hashes) + i
                if found.setdefault((int(step), sample), value) != value:
                    raise RuntimeError(f"{self.log}: step {step}, sample {sample} came out in two ways")
        return found

    def losses(self) -> dict[int, float]:
        """{step: loss} of the log."""
        lines = read_metrics(self.workdir / "metrics.jsonl")
        return {int(line["step"]): line["train/loss"] for line in lines if "train/loss" in line}

    def state(self) -> dict[str, np.ndarray]:
        """All arrays of the last checkpoint, by path."""
        folder = (self.workdir / "checkpoints" / str(saved_steps(self.workdir / "checkpoints")[-1])).absolute()
        import jax

        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        tree = checkpointer.metadata(folder / "state").item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(folder / "state", args=ocp.args.PyTreeRestore(restore_args=arguments))
        return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def differences(run: Run, truth: Run) -> list[str]:
    """What of a run is not bit for bit what it is in the other; empty where all is."""
    found = []
    if run.batches() != truth.batches():
        found.append("episodes")
    if run.losses() != truth.losses():
        found.append("losses")
    state, expected = run.state(), truth.state()
    if state.keys() != expected.keys() or any(state[n].tobytes() != expected[n].tobytes() for n in expected):
        found.append("state")
    models = [sorted((r.workdir / "model" / "unet").glob("*.safetensors"))[0].read_bytes() for r in (run, truth)]
    if models[0] != models[1]:
        found.append("model")
    return found


def _made(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # a save that is done is renamed
        return 0.0


def kill(run: Run, kind: str, rng: random.Random, seconds: float) -> str | None:
    """Starts the run and kills it at a random moment; where that was, or None where it had ended before.

    Args:
        run: what to start.
        kind: of :data:`KINDS`.
        rng: draws the moment.
        seconds: that a launch takes at most, for "anywhere".
    """
    done = run.steps_logged()
    made = len(run.log.read_text().splitlines()) if run.log.exists() else 0
    step, batch = done + rng.randint(2, 10), made + rng.randint(5, 15)
    checkpoints = run.workdir / "checkpoints"
    launched = time.time()

    def reached() -> bool:
        if kind == "data":
            return run.log.exists() and len(run.log.read_text().splitlines()) >= batch
        if kind == "step":
            return run.steps_logged() >= step
        if kind == "save":
            saving = any(_made(path) > launched for path in checkpoints.glob("*tmp*"))
            return saving and run.steps_logged() >= step
        return True

    process = run.start()
    pause = rng.uniform(0, seconds if kind == "anywhere" else 0.1)
    while not reached():
        if process.poll() is not None:
            return None
        time.sleep(_POLL)
    try:
        process.wait(pause)
        return None
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return f"{kind}: after {run.steps_logged()} steps, checkpoints {saved_steps(checkpoints)}" + (
        ", a save half done" if list(checkpoints.glob("*tmp*")) else ""
    )


def kill_test(
    truth: Run, kills: int, each: int, seed: int, seconds: float = 0.0, say: Callable[[str], None] = print
) -> tuple[int, list[str]]:
    """(kills, what differed) in runs beside the untouched one.

    Args:
        truth: the untouched run, finished.
        kills: in all.
        each: in one run.
        seed: of the moments.
        seconds: that a launch takes; 0 leaves out the kills anywhere.
        say: gets a line a kill and a line a run.
    """
    rng, kinds = random.Random(seed), KINDS if seconds else KINDS[:-1]
    count, runs, found = 0, 0, []
    while count < kills:
        run, runs = truth.beside(f"run{runs}"), runs + 1
        for _ in range(min(each, kills - count)):
            where = kill(run, kinds[count % len(kinds)], rng, seconds)
            if where is None:
                break  # it was quicker; the next run takes the kill
            count += 1
            say(f"kill {count}: {where}")
        run.finish()
        different = differences(run, truth)
        found += [f"{run.workdir.name}: {name}" for name in different]
        say(f"{run.workdir.name}: {different or 'the same'}")
    return count, found


def main() -> None:
    """Prints a line a kill and the tally; exit status 1 where any run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--each", type=int, default=5, help="kills in one run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        truth = Run(Path(folder) / "untouched", Path(folder) / "cache")
        truth.finish()  # compiles
        again, start = truth.beside("again"), time.monotonic()
        again.finish()
        seconds, different = time.monotonic() - start, differences(again, truth)
        print(f"untouched, twice: {different or 'the same'}, {seconds:.0f} s", flush=True)
        kills, found = kill_test(truth, args.kills, args.each, args.seed, seconds, lambda x: print(x, flush=True))
    print(f"{kills} kills; what differs from the untouched run: {found or 'nothing'}")
    sys.exit(bool(different or found))


if __name__ == "__main__":
    main()
