r"""Converts weights: into a model folder, and out of one.

Examples:
    python -m ldis_jax.convert --task=ldisn --sd15=stable-diffusion-v1-5 --out=pretrained/ldisn \
        --alpha_clip=clip_l14_grit20m_fultune_2xe.pth
    python -m ldis_jax.convert --ldis=mp_rank_00_model_states.pt --sd15=... --alpha_clip=... --out=ldis1
    python -m ldis_jax.convert --checkpoint=runs/ldis1 --step=80000 --out=ldis1_80k
    python -m ldis_jax.convert --model=ldis1 --to=ldis_pt --out=pytorch_model/mp_rank_00_model_states.pt
    python -m ldis_jax.convert --model=pretrained/ldis1 --lora=runs/ldis1_lora/lora --out=ldis1_lora
    python -m ldis_jax.convert --model=runs/ldis1/model --push=OWNER/NAME

FILE may be an address: owner/name[@revision]:path of the hub, or https://HOST/FILE[#sha256=DIGEST]; it is fetched
once. docs/weights.md lists every form that is read and written, and the addresses of the public weights.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.support import cli


def _arguments() -> argparse.Namespace:
    parser = cli.Parser("convert", __doc__)
    origin = parser.add_argument_group("from (one of these)").add_mutually_exclusive_group(required=True)
    origin.add_argument("--sd15", help="Stable Diffusion 1.5: diffusers folder, hub id, or original single file")
    origin.add_argument("--checkpoint", type=Path, metavar="WORKDIR", help="work folder of ldis_jax.main")
    origin.add_argument("--model", help="small, tiny, ldis1, ldisn, a model folder, or a hub id")
    parser.add_argument("--out", type=Path, help="model folder to write; a file for another --to")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="upload the written folder, or --model as it is, to the hub"
    )
    parser.add_argument(
        "--to",
        default="folder",
        choices=("folder", "ldis_pt", "lora"),
        help="ldis_pt: the paper's own format, of --model; lora: what a --checkpoint with config.lora trained, alone",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the written weights (default float32)")
    parts = parser.add_argument_group("with --sd15 (--vae and --variant with --model too)")
    parts.add_argument("--task", choices=("ldis1", "ldisn"), help="may be left out with --ldis, which tells it")
    parts.add_argument("--alpha_clip", metavar="FILE", help="Alpha-CLIP's .pth")
    parts.add_argument("--clip", help="OpenAI's ViT-L-14.pt (trusted input), or transformers' folder or hub id")
    parts.add_argument("--zero_alpha", action="store_true", help="give plain CLIP an alpha convolution of zeros")
    parts.add_argument("--ldis", metavar="FILE", help="the paper's trained UNet, mp_rank_00_model_states.pt")
    parts.add_argument("--vae", help="another autoencoder: folder or hub id with AutoencoderKL or AutoencoderTiny")
    parts.add_argument("--variant", help="of the weight files, such as fp16 or non_ema")
    parts.add_argument(
        "--sd15_config", type=Path, help="folder of unet/ and vae/ configs for a single file that differs"
    )
    parts.add_argument("--seed", type=int, help="of the adapter that SD 1.5 lacks (default 0)")
    more = parser.add_argument_group("hub, checkpoints and LoRA")
    more.add_argument("--lora", type=Path, help="file or folder of LoRA to merge into --model")
    more.add_argument("--revision", help="branch, tag or commit of --sd15's or --model's hub id")
    more.add_argument("--offline", action="store_true", help="fetch nothing; take what is on this machine")
    more.add_argument("--step", type=int, help="of --checkpoint (default: the newest)")
    more.add_argument("--init", type=Path, help="the folder training started from, if it has moved")
    return parser.parse_args()


# Flag -> the origins with which it does something.
_GOES_WITH = {
    **dict.fromkeys(("task", "alpha_clip", "clip", "zero_alpha", "ldis", "sd15_config", "seed"), ("sd15",)),
    **dict.fromkeys(("vae", "variant", "revision"), ("sd15", "model")),
    **dict.fromkeys(("step", "init"), ("checkpoint",)),
    "lora": ("model",),
}
_TO = {"ldis_pt": "model", "lora": "checkpoint"}


def _check(args: argparse.Namespace, origin: str) -> None:
    """A flag that would do nothing is a mistake that its user should hear of; so is one that is missing."""
    unused = {name: f"--{origin}" for name, origins in _GOES_WITH.items() if origin not in origins}
    if origin != _TO.get(args.to, origin):
        unused["to"] = f"--{origin}"
    if args.to == "lora":
        unused["init"] = "--to=lora, which needs no base"
    if args.to == "ldis_pt":
        unused |= {"vae": "--to=ldis_pt", "dtype": "--to=ldis_pt, which is float32"}
    if args.ldis is not None:
        unused["seed"] = "--ldis, which has its adapter"
    if args.alpha_clip is not None:
        unused["zero_alpha"] = "--alpha_clip"
    if origin == "sd15":
        single = os.path.isfile(args.sd15)
        unused["variant" if single else "sd15_config"] = "--sd15=FILE" if single else "--sd15=FOLDER"
    if args.out is None:
        unused |= dict.fromkeys(("lora", "dtype", "vae"), "--push without --out")
    faults = [
        LDISError(f"--{name}: has no effect with {other}; see --help")
        for name, other in unused.items()
        if getattr(args, name)
    ]
    for one, other in (("task", "ldis"), ("alpha_clip", "clip")) if origin == "sd15" else ():
        if getattr(args, one) is None and getattr(args, other) is None:
            faults.append(LDISError(f"--sd15: needs --{one} or --{other}; see --help"))
    if args.out is None and (args.push is None or origin != "model"):
        faults.append(LDISError(f"--{origin}: needs --out; see --help"))
    if args.push is not None and args.to != "folder":
        faults.append(LDISError(f"--push: has no effect with --to={args.to}; see --help"))
    if not 0 <= (args.seed or 0) < 2**63:
        faults.append(LDISError(f"--seed={args.seed}: must lie in 0..2^63 - 1"))
    if faults:
        raise faults[0]


def main() -> None:
    """Entry point."""
    args = _arguments()
    origin = next(name for name in ("sd15", "checkpoint", "model") if getattr(args, name) is not None)
    _check(args, origin)

    from ldis_jax.commands import convert_weights

    folder = args.out
    match origin:
        case "sd15":
            print(convert_weights.from_stable_diffusion(args))
        case "checkpoint":
            print(convert_weights.from_checkpoint(args))
        case "model" if folder is None:
            folder = convert_weights.resolve(args.model, args.revision, args.variant)
        case "model":
            print(convert_weights.from_model(args))
    if args.push is not None:
        print(convert_weights.push(folder, args.push))


if __name__ == "__main__":
    cli.run(main)
