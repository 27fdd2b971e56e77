r"""Builds the records of a data set from the folder it was unpacked to.

Example:
    python data/build.py pascal --source=/data/VOCdevkit/VOC2012 --out=/data/records --num_workers=8

writes /data/records/pascal/train/1.0.0 and .../val/1.0.0, for record_source("/data/records/pascal", "train"). The
layout that each data set needs, and where to get it, is in data/NAME/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from ldis_jax.support import cli
from ldis_jax.support.checks import MOST_PROCESSES, check_integer

NAMES = ("pascal", "coco20i", "davis16", "vspw", "fss1000", "folder")


def _arguments() -> argparse.Namespace:
    parser = cli.Parser("data/build.py", __doc__)
    parser.add_argument("name", metavar="NAME", choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--source", required=True, type=Path, help="folder of the unpacked data set")
    parser.add_argument("--out", required=True, type=Path, help="folder for records, shared by all data sets")
    parser.add_argument("--split", nargs="+", default=[], help="what to build (default: the usual ones that are there)")
    workers = os.cpu_count() or 1
    parser.add_argument(
        "--num_workers", type=int, default=workers, help=f"processes that read and check (default: {workers})"
    )
    parser.add_argument(
        "--skip_bad", action="store_true", help="leave bad files out instead of stopping; index.json lists them"
    )
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = _arguments()
    # Here, not above: worker processes import this file and need neither.
    from absl import logging

    builder = importlib.import_module(f"{args.name}.{args.name}_dataset_builder").Builder
    logging.set_verbosity(logging.ERROR)  # TFDS's remarks on what is meant to be so
    check_integer("--num_workers", args.num_workers, 0, maximum=MOST_PROCESSES)
    options = {"num_workers": args.num_workers, "skip_bad": args.skip_bad}
    for build in builder.of_splits(args.source, args.out, args.split, **options):
        folder = build.build()
        for warning in build.warnings:
            print(f"warning: {build.name}/{build.split}: {warning}", file=sys.stderr)
        summary = build.summary()
        print(f"{folder}: {summary['images']} images, hash {summary['hash']}")


if __name__ == "__main__":
    cli.run(main)
