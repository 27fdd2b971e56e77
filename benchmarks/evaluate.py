"""What an evaluation costs outside the network: its loop beside bare calls of the network on arrays on the device.

    python benchmarks/evaluate.py --model=runs/tiny/model --benchmark=mini-coco-1shot --data=coco_mini --json=out.json

Each repetition times the loop of ``python -m ldis_jax.evaluate`` from nothing to its last record (reading, transforms,
network, metrics, records), then as many calls of the same compiled network on one batch that is on the device already.
Report and page, which come once, are timed apart. Where the device is the CPU, the host's work and the network's share
its cores, so that nothing is hidden; CPU seconds tell the two apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.evaluate import prepare
from ldis_jax.evaluation import run
from ldis_jax.evaluation.protocols import PROTOCOLS
from ldis_jax.evaluation.report import Subject
from ldis_jax.runtime import sharding
from ldis_jax.support import cli, prediction_options
from ldis_jax.support.files import write_json

_FIGURES = ("batches", "loop_seconds", "bare_seconds", "loop_cpu_seconds", "bare_cpu_seconds", "report_seconds")


class Clock:
    """Wall and CPU seconds of a ``with`` block; CPU seconds are of all threads of this process."""

    def __enter__(self) -> Clock:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def measure_loop(evaluate: Callable[..., Any], subject: Subject) -> dict:
    """Evaluates once: the figures of the loop, and of what follows it."""
    loop, calls, at_end = Clock(), [0], [0]
    real = run._measure

    def counted(batch: dict[str, np.ndarray]) -> jax.Array:
        calls[0] += 1
        return subject.predict(batch)

    def timed(*args: Any) -> Any:
        with loop:
            records = real(*args)
        at_end[0] = calls[0]  # the page predicts again
        return records

    run._measure = timed
    try:
        with tempfile.TemporaryDirectory() as folder, Clock() as whole:
            evaluate(subject._replace(predict=counted), Path(folder) / "report.json")
    finally:
        run._measure = real
    return {
        "batches": at_end[0],
        "loop_seconds": loop.wall,
        "loop_cpu_seconds": loop.cpu,
        "report_seconds": whole.wall - loop.wall,
    }


def measure_bare(predict: Callable, batch: dict[str, jax.Array], calls: int) -> dict[str, float]:
    """That many calls on a batch that is on the device, two of them in flight."""
    before = None
    with Clock() as clock:
        for _ in range(calls):
            result = predict(batch)
            if before is not None:
                before.block_until_ready()
            before = result
        jax.block_until_ready(before)
    return {"bare_seconds": clock.wall, "bare_cpu_seconds": clock.cpu}


def device_batch(size: int, num_shots: int, batch_size: int) -> dict[str, jax.Array]:
    """A batch as the network takes it, on the devices; every pixel of a prompt is object."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    if batch_size % mesh.size:
        raise LDISError(f"--batch_size={batch_size}: must be a multiple of the {mesh.size} devices")
    rng = np.random.default_rng(0)
    arrays = {
        "query_image": rng.uniform(-1, 1, (batch_size, size, size, 3)).astype(np.float32),
        "prompt_images": rng.uniform(-1, 1, (batch_size, num_shots, size, size, 3)).astype(np.float32),
        "prompt_masks": np.ones((batch_size, num_shots, size, size), np.uint8),
        "index": np.arange(batch_size, dtype=np.int32),
    }
    return jax.device_put(arrays, sharding.batch_sharding(mesh))


def main() -> None:
    """Prints the medians and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--benchmark", required=True, choices=PROTOCOLS, metavar="NAME", help="as of ldis_jax.evaluate")
    parser.add_argument("--data", required=True, type=Path, nargs=1, help="as of ldis_jax.evaluate")
    parser.add_argument("--manifest", type=Path, help="as of ldis_jax.evaluate")
    parser.add_argument("--batch_size", type=int, default=32, help="default 32")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3, help="default 3; medians are reported")
    parser.add_argument("--json", help="write the figures to this file")
    prediction_options.add_flags(parser)
    args = parser.parse_args()
    args.revision = None
    protocol = PROTOCOLS[args.benchmark]
    evaluate, subject = prepare(args, [])
    size, facts = subject.image_size, subject.facts
    batch = device_batch(size, protocol.num_shots, args.batch_size)
    subject.predict(batch).block_until_ready()  # compiles

    repeats = []
    for _ in range(args.repeats):
        figures = measure_loop(evaluate, subject)
        repeats.append(figures | measure_bare(subject.predict, batch, figures["batches"]))
    medians = {name: statistics.median(figures[name] for figures in repeats) for name in _FIGURES}
    ratio = statistics.median(figures["loop_seconds"] / figures["bare_seconds"] for figures in repeats)
    outside = medians["loop_cpu_seconds"] - medians["bare_cpu_seconds"]
    print(f"{protocol.name}, {medians['batches']} batches of {args.batch_size}, {size} px, {facts['software']}")
    for name in _FIGURES[1:]:
        print(f"{name:<18} {medians[name]:9.2f}")
    print(f"loop / bare network: {ratio:.3f}; CPU seconds outside the network: {outside:.2f}")
    if args.json:
        settings = {"benchmark": protocol.name, "batch_size": args.batch_size, "image_size": size, **facts}
        result = {"ratio": ratio, "cpu_seconds_outside": outside, "medians": medians, "repeats": repeats}
        write_json(args.json, {**settings, "devices": [str(device) for device in jax.local_devices()], **result})


if __name__ == "__main__":
    cli.run(main)
