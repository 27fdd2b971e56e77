r"""Segments one picture from the command line.

Example:
    python -m ldis_jax.segment --model=runs/tiny/model --query=query.png \
        --prompt=prompt.png:prompt_mask.png --out=mask.png --overlay=overlay.png
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ldis_jax import cli
from ldis_jax.errors import LDISError


def _parse_prompt(value: str) -> tuple[str, str]:
    """Splits IMAGE:MASK at the colon that leaves two existing files (paths may hold colons), or else at the last."""
    cuts = [i for i, char in enumerate(value) if char == ":"]
    if not cuts:
        raise LDISError(f"--prompt={value}: write IMAGE:MASK")
    for cut in reversed(cuts):
        if os.path.exists(value[:cut]) and os.path.exists(value[cut + 1 :]):
            return value[:cut], value[cut + 1 :]
    return value[: cuts[-1]], value[cuts[-1] + 1 :]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ldis_jax.segment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--query", required=True, help="picture to segment")
    parser.add_argument("--prompt", required=True, action="append", metavar="IMAGE:MASK", help="may be repeated")
    parser.add_argument("--out", required=True, type=Path, help="mask to write, PNG of 0 and 255")
    parser.add_argument("--overlay", type=Path, help="picture to write, with the object tinted and outlined")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seed", type=int, default=0, help="of LDIS-n's noise (default 0)")
    parser.add_argument("--ignore_label", type=int, help="mask value that is neither object nor background")
    cli.add_ldisn_flags(parser)
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = _arguments()
    for path in (args.out, args.overlay):
        if path is not None and path.suffix.lower() != ".png":
            raise LDISError(f"{path}: outputs are PNG files; end the name in .png")
    prompts = [_parse_prompt(value) for value in args.prompt]

    from ldis_jax.image_io import write_png
    from ldis_jax.pipeline import LDISPipeline

    pipe = LDISPipeline.from_pretrained(args.model, dtype=args.dtype)
    result = pipe(args.query, prompts, seed=args.seed, ignore_label=args.ignore_label, **cli.ldisn_options(args))
    overlay = result.overlay(args.query) if args.overlay is not None else None
    result.save(args.out)
    if overlay is not None:
        write_png(args.overlay, overlay)
    print(f"{args.out}: object covers {100 * result.mask.mean():.1f} % of the picture")


if __name__ == "__main__":
    cli.run(main)
