r"""Says whether a folder of pictures and masks is fit to train on, and which files are not.

Example:
    python -m ldis_jax.check_data --data=my_pictures

Opens every picture and mask, and prints how masks are read, the classes with their pictures, and which pictures are
held out for evaluation. Exit status 2 where a file cannot be used or there are too few. The layouts stand in
docs/finetune.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldis_jax.datasets.folder_check import CheckedFolder, check_folder, summary
from ldis_jax.datasets.folder_layout import Problem
from ldis_jax.datasets.mask_files import RULES
from ldis_jax.errors import LDISError
from ldis_jax.support import cli
from ldis_jax.support.files import write_json

_SHOWN, _NAMES = 20, 8  # classes and files; names of held-out pictures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ldis_jax.check_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder with images/ and masks/, or in VOC's layout")
    parser.add_argument("--skip_bad", action="store_true", help="judge what is left without the files that are bad")
    parser.add_argument("--limit", type=int, default=_SHOWN, help=f"files to list (default {_SHOWN})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it to this JSON file")
    return parser.parse_args()


def lines(checked: CheckedFolder, limit: int = _SHOWN) -> list[str]:
    """What a person wants to know of a folder, with at most ``limit`` of its problems and as many notes."""
    facts = summary(checked)
    held_out, classes = facts["held_out"], facts["classes"]
    (low, _, wide), (short, _, high) = (facts[name] or (0, 0, 0) for name in ("widths", "heights"))
    shown = [
        f"{facts['folder']}: {facts['layout']}, {facts['pictures']} pictures, "
        f"{low} to {wide} wide, {short} to {high} high",
        f"masks: {RULES[checked.rule]}",
        f"{'class':<24} {'pictures':>8} {'held out':>8}",
    ]
    most = sorted(classes.items(), key=lambda item: -item[1]["pictures"])
    shown += [f"{name:<24} {counts['pictures']:>8} {counts['held_out']:>8}" for name, counts in most[:_SHOWN]]
    shown += _rest(len(classes), _SHOWN, "classes")
    by = facts["held_out_by"]
    shown.append(f"held out to evaluate, by {by}: {len(held_out)}: {', '.join(held_out[:_NAMES])}")
    shown += _rest(len(held_out), _NAMES, "pictures")
    return [*shown, *_listed("problem", checked.problems, limit), *_listed("note", checked.notes, limit)]


def _listed(kind: str, found: Sequence[Problem], limit: int) -> list[str]:
    return [f"{kind}: {problem}" for problem in found[:limit]] + _rest(len(found), limit, f"{kind}s")


def _rest(count: int, limit: int, what: str) -> list[str]:
    return [f"and {count - limit} more {what}"] if count > limit else []


def main() -> None:
    """Entry point."""
    args = _arguments()
    if args.json is not None and args.json.suffix != ".json":
        raise LDISError(f"--json={args.json}: the summary is JSON; end the name in .json")
    checked = check_folder(args.data)
    if args.json is not None:
        write_json(args.json, summary(checked))
    print("\n".join(lines(checked, max(args.limit, 0))), flush=True)
    checked.require_usable(args.skip_bad)
    print("ready to train on")


if __name__ == "__main__":
    cli.run(main)
