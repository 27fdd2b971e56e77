"""How long a user waits for the first mask: a whole process of ``python -m ldis_jax.segment``, and of ``--help``.

    python benchmarks/startup.py --model=MODEL_FOLDER --json=docs/speed/startup.json

The first process finds no compiled program and leaves its own in a cache of this benchmark's; the others find them
there, as a user's second call does. Wall seconds of the whole command, interpreter, imports and weights included.
``--model=random`` makes one of SD 1.5's size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldis_jax.support import cli
from ldis_jax.support.files import write_json

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("segment", "main", "evaluate", "compile", "convert")


def seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Of one process, which must succeed."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *arguments], check=True, cwd=ROOT, env=environment, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help='model folder, or "tiny", or "random" for one of full size')
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    helps = {
        name: statistics.median(seconds([f"ldis_jax.{name}", "--help"], dict(os.environ)) for _ in range(args.repeats))
        for name in COMMANDS
    }
    with tempfile.TemporaryDirectory() as temporary:
        model = args.model
        if model == "random":
            from benchmarks.speed import make_folder

            model = f"{temporary}/model"
            make_folder(Path(model), "ldis1")
        prompt = f"--prompt={ROOT / 'examples/prompt.png'}:{ROOT / 'examples/prompt_mask.png'}"
        command = ["ldis_jax.segment", f"--model={model}", f"--query={ROOT / 'examples/query.png'}", prompt]
        command.append(f"--out={temporary}/mask.png")
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{temporary}/cache"}
        first, *others = (seconds(command, environment) for _ in range(1 + args.repeats))
    figures = {"help": helps, "first_mask": {"nothing cached": first, "compiled before": statistics.median(others)}}
    print(figures)
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    cli.run(main)
