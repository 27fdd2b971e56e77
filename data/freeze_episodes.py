r"""Draws evaluation episodes once and writes their names to a manifest, so that runs are measured on the same ones.

Examples:
    python data/freeze_episodes.py --root data/pascal --split val --num_shots 1 --episodes 1000 --seed 0 \
        --out data/pascal/episodes/val_1shot.json
    python data/freeze_episodes.py --root data/records/coco20i --benchmark coco20i-fold0-1shot --out fold0.json

A benchmark says its own split, classes, prompts, episodes and seed; without --benchmark the flags do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.evaluation.benchmark_data import draw_episodes, open_source
from ldis_jax.evaluation.protocols import PROTOCOLS, Protocol
from ldis_jax.input_pipeline.episodes import episodes_hash
from ldis_jax.support import cli
from ldis_jax.support.checks import MOST_ROWS, check_integer
from ldis_jax.support.files import check_writable, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 on bad input, or 1 where the disk is full."""
    parser = cli.Parser("data/freeze_episodes.py", __doc__)
    parser.add_argument(
        "--root", required=True, type=Path, help="folder in PASCAL VOC's layout, or OUT/NAME of data/build.py"
    )
    parser.add_argument(
        "--split", default="val", help="a built split, or the stem of a file in ImageSets/Segmentation (default: val)"
    )
    parser.add_argument("--classes", type=int, nargs="+", help="labels to draw, for a fold (default: all)")
    parser.add_argument("--num_shots", type=int, default=1, help="prompts an episode (default: 1)")
    parser.add_argument("--episodes", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--benchmark",
        choices=PROTOCOLS,
        metavar="NAME",
        help="of a benchmark of ldis_jax.evaluate, in place of the flags above",
    )
    parser.add_argument("--out", required=True, type=Path, help="manifest to write, .json")
    args = parser.parse_args(argv)
    try:
        check_integer("--num_shots", args.num_shots, maximum=MOST_ROWS)
        check_integer("--episodes", args.episodes, maximum=MOST_ROWS)
        check_integer("--seed", args.seed, 0, maximum=2**63 - 1)
        check_writable(args.out)
        protocol = Protocol(
            "episodes",
            "any",
            args.split,
            num_shots=args.num_shots,
            classes=tuple(args.classes or ()),
            episodes=args.episodes,
            seed=args.seed,
        )
        if args.benchmark:
            protocol = PROTOCOLS[args.benchmark]
            if protocol.kind != "images":
                raise LDISError(f"--benchmark={args.benchmark}: is about whole videos; evaluate it without a manifest")
        records = draw_episodes(open_source(args.root, protocol), protocol)
        write_json(args.out, [record.to_json() for record in records])
    except LDISError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    print(f"{args.out}: {len(records)} episodes, episodes_hash {episodes_hash(records)}")
    return 0


def _run() -> None:
    if status := main():
        sys.exit(status)


if __name__ == "__main__":
    cli.run(_run)
