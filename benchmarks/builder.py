"""Builder: images a second and peak memory by the number of worker processes, of data/build.py itself.

    python benchmarks/builder.py folder --source=coco_mini --split=train --json=builder.json

Each measurement is a run of the command; its start-up, measured on a build that is already there, is subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def children_bytes(pid: int) -> int:
    """Resident memory of a process and all below it, shared pages counted in each."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    resident = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return 1024 * resident + sum(children_bytes(int(child)) for child in below)


def measure(command: list[str]) -> tuple[float, int]:
    """(seconds, peak bytes of all processes) of a command."""
    start, peak = time.perf_counter(), [0]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], children_bytes(process.pid))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(errors)
    return seconds, peak[0]


def main() -> None:
    """Prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a data set of data/build.py")
    parser.add_argument("--source", required=True, help="the unpacked data set")
    parser.add_argument("--split", default="train")
    parser.add_argument("--workers", type=int, nargs="+", default=list(range((os.cpu_count() or 1) + 1)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    found: dict[int, list[tuple[float, int]]] = {workers: [] for workers in args.workers}
    images = 0
    for _ in range(args.repeats):
        for workers in args.workers:
            with tempfile.TemporaryDirectory() as out:
                command = [sys.executable, "data/build.py", args.name, f"--source={Path(args.source).resolve()}"]
                command += [f"--out={out}", f"--split={args.split}", f"--num_workers={workers}"]
                seconds, peak = measure(command)
                idle, _ = measure(command)  # finds it finished
                found[workers].append((seconds - idle, peak))
                images = json.loads(next(Path(out).rglob("index.json")).read_text())["images"]
    rows = []
    for workers, runs in found.items():
        seconds, peak = (statistics.median(values) for values in zip(*runs, strict=True))
        rows.append({"workers": workers, "images_per_second": images / seconds, "peak_bytes": peak})
        print(f"{workers} workers: {images / seconds:.0f} images/s, {peak / 1e6:.0f} MB in all processes")
    if args.json:
        from ldis_jax.support.files import write_json

        write_json(args.json, {"data_set": args.name, "images": images, "rows": rows})


if __name__ == "__main__":
    main()
