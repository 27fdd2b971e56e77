r"""Writes a model's prediction as a program that JAX runs without this package.

Example:
    python -m ldis_jax.export --model=runs/tiny/model --out=ldis.safetensors --num_prompts=4

The file holds weights and StableHLO for every platform; docs/export.md says how to run it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ldis_jax.support import cli, prediction_options


def _batch_size(text: str) -> int | None:
    return None if text == "any" else int(text)


def _arguments() -> argparse.Namespace:
    parser = cli.Parser("export", __doc__)
    parser.add_model_flag(required=True)
    parser.add_argument("--out", required=True, type=Path, help="file to write, a safetensors file whatever its name")
    parser.add_argument("--platforms", default="cpu,tpu,cuda", help="of cpu, tpu, cuda, rocm (default %(default)s)")
    parser.add_argument("--num_prompts", type=int, default=1, help="the most prompts that a query may have (default 1)")
    parser.add_argument(
        "--batch_size",
        type=_batch_size,
        metavar="N|any",
        help="fixes the batch size; any (default): every size, compiled once for each",
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    prediction_options.add_flags(parser)
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = _arguments()

    from ldis_jax.pipeline import LDISPipeline

    pipe = LDISPipeline.from_pretrained(args.model, dtype=args.dtype)
    pipe.export(
        args.out,
        num_prompts=args.num_prompts,
        batch_size=args.batch_size,
        platforms=args.platforms.split(","),
        **prediction_options.given_options(args),
    )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB for {args.platforms}")


if __name__ == "__main__":
    cli.run(main)
