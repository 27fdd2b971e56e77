r"""Lists, fetches, verifies and removes the models that have a name.

Examples:
    python -m ldis_jax.named_models
    python -m ldis_jax.named_models fetch ldis1 ldisn
    python -m ldis_jax.named_models verify ldis1
    python -m ldis_jax.named_models remove ldis1

A command that is given a name, such as --model=ldis1, fetches the model itself on first use. Models and their parts
are kept in LDIS_JAX_CACHE (default: ~/.cache/ldis_jax).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ldis_jax.support import cli
from ldis_jax.support.files import write_json
from ldis_jax.weights import named_models


def _arguments() -> argparse.Namespace:
    parser = cli.Parser("named_models", __doc__)
    parser.add_argument("action", nargs="?", default="list", choices=("list", "fetch", "verify", "remove"))
    parser.add_argument("name", nargs="*", help="of models (list: default all)")
    parser.add_argument("--ldis", metavar="ADDRESS", help="fetch: the trained UNet, in place of the table's")
    parser.add_argument("--offline", action="store_true", help="fetch nothing; take what is on this machine")
    parser.add_argument("--json", type=Path, help="list: also write the table to a file or /dev/stdout")
    args = parser.parse_args()
    if args.action != "list" and not args.name:
        parser.error(f"{args.action}: name a model: {', '.join(named_models.TABLE)}")
    bundled = [name for name, row in named_models.TABLE.items() if row.folder]
    if args.ldis is not None and (args.action != "fetch" or len(args.name) > 1 or args.name[0] in bundled):
        parser.error("--ldis: has no effect but with fetch ldis1 or ldisn")
    return args


def _list(args: argparse.Namespace) -> None:
    names = args.name or list(named_models.TABLE)
    for name in names:
        row = named_models.known(name)
        folder = named_models.ready_folder(name)
        size = sum(part.gigabytes for part in row.parts.values())
        state = "bundled" if row.folder else f"ready in {folder}" if folder else f"{size:.1f} GB to fetch"
        print(f"{name:<8}{row.about}\n        {state}; licence: {row.license}")
        if folder is not None and row.folder is None:
            used = next(record for record in named_models.records(name) if record.folder == folder)
            print(*(f"          from {origin}" for origin in used.origins), sep="\n")
            continue
        for part in row.parts.values():
            print(f"          {part.what}: {part.address} ({part.gigabytes} GB, licence: {part.license})")
    if args.json is not None:
        write_json(args.json, {name: named_models.as_json(name) for name in names})


def _fetch(args: argparse.Namespace) -> None:
    from ldis_jax.weights.named_fetch import named_folder

    for name in args.name:
        print(f"{name}: {named_folder(name, args.ldis)}")


def _verify(args: argparse.Namespace) -> None:
    from ldis_jax.weights.named_fetch import verify

    for name in args.name:
        print(f"{name}: {verify(name)} files verified")


def _remove(args: argparse.Namespace) -> None:
    for name in args.name:
        for path in named_models.remove(name):
            print(f"removed {path}")


_ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "list": _list, "fetch": _fetch, "verify": _verify, "remove": _remove
}  # fmt: skip


def main() -> None:
    """Entry point."""
    args = _arguments()
    _ACTIONS[args.action](args)


if __name__ == "__main__":
    cli.run(main)
