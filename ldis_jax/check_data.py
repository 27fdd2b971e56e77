r"""Says whether a folder of images and masks is fit to train on, and which files are not.

Example:
    python -m ldis_jax.check_data --data=my_images

Opens every image and mask, and prints how masks are read, the classes with their images, how wide their objects are,
and which images are held out for evaluation. Exit status 2 where a file cannot be used or there are too few. The
layouts are in docs/finetune.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ldis_jax.datasets.folder_check import SHOWN, check_folder, report_lines, summary
from ldis_jax.datasets.object_size import object_widths
from ldis_jax.support import cli
from ldis_jax.support.files import check_writable, write_json


def _arguments() -> argparse.Namespace:
    parser = cli.Parser("check_data", __doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder with images/ and masks/, or in VOC's layout")
    parser.add_argument("--skip_bad", action="store_true", help="judge what is left without the files that are bad")
    parser.add_argument("--limit", type=int, default=SHOWN, help=f"files to list (default {SHOWN})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it to this JSON file")
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = _arguments()
    if args.json is not None:
        check_writable(args.json)
    checked = check_folder(args.data)
    widths = {checked.name_of(label): round(100 * width, 1) for label, width in object_widths(checked).items()}
    if args.json is not None:
        write_json(args.json, summary(checked) | {"object_widths": widths})
    print("\n".join(report_lines(checked, max(args.limit, 0))))
    if widths:
        listed = [f"{name} {width:g}" for name, width in widths.items()]
        print(f"width of objects, percent of the long side: {', '.join(listed[:SHOWN])}", flush=True)
    checked.require_usable(args.skip_bad)
    print("ready to train on")


if __name__ == "__main__":
    cli.run(main)
