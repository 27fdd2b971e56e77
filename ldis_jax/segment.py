r"""Segments images and videos from the command line.

Examples:
    python -m ldis_jax.segment --model=small --query=photo.jpg \
        --prompt=prompt.jpg:prompt_mask.png --out=mask.png --overlay=overlay.png
    python -m ldis_jax.segment --model=MODEL --query photos/*.jpg --out=masks \
        --prompt=cat=cat.jpg:cat_mask.png --prompt=dog=dog.jpg:dog_mask.png
    python -m ldis_jax.segment --model=MODEL --query=q.jpg --out=mask.png --prompt=images/p.jpg:masks/p.png@trunk
    python -m ldis_jax.segment --model=MODEL --query=clip.mp4 --first_mask=first.png --out=masks --overlay=overlay.mp4

One image gives one file. Several images, or a folder, give a folder of files named like them; started again, it
goes on where it stopped. A mask is 0 and 255, with several classes 1, 2, ... in the order of the prompts, in colours.
LABEL chooses one of a label map, by its value or by its name in the classes.json beside the map or its folder.
Of a video --out is a folder of numbered label maps, 1 the object or the values of --first_mask. A video is a file (a
GIF, too), or frames: a folder or pattern, by the numbers in their names, or files one by one, as given.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.support import cli, prediction_options

_SHOWN = 5  # of what failed
_Prompt = tuple[str, str, str | None]  # image, mask, label


def _split_class(value: str) -> tuple[str, _Prompt]:
    """``[NAME=]IMAGE:MASK[@LABEL]`` as (name or "", prompt); a value that is itself a file has no name."""
    prompt = _split_prompt(value)
    name, equals, rest = value.partition("=")
    if equals and not os.path.exists(prompt[0]):
        return name, _split_prompt(rest)
    return "", prompt


def _split_prompt(value: str) -> _Prompt:
    """Splits IMAGE:MASK[@LABEL] at the colon that leaves two existing files (paths may hold colons), or at the last."""
    for cut in reversed([i for i, char in enumerate(value) if char == ":"]):
        image, (mask, label) = value[:cut], _split_label(value[cut + 1 :])
        if os.path.exists(image) and os.path.exists(mask):
            return image, mask, label
    image, _, mask = value.rpartition(":")
    return image, *_split_label(mask)


def _split_label(value: str) -> tuple[str, str | None]:
    """Splits MASK@LABEL at the last @ that leaves an existing file; a value that is itself a file has no label."""
    for cut in reversed([i for i, char in enumerate(value) if char == "@"]):
        if os.path.exists(value[:cut]) and not os.path.exists(value):
            return value[:cut], value[cut + 1 :]
    return value, None


def _read_classes(values: list[str]) -> dict[str, list[_Prompt]]:
    """Prompts by class; "" where no class is named. Names become part of file names."""
    classes: dict[str, list[_Prompt]] = {}
    for value, (name, prompt) in zip(values, map(_split_class, values), strict=True):
        classes.setdefault(name, []).append(prompt)
        safe = not name or name.replace(" ", "_").replace("-", "_").isidentifier()
        if "" in prompt or not safe or ("" in classes and len(classes) > 1):
            raise LDISError(
                f"--prompt={value}: write IMAGE:MASK, or IMAGE:MASK@LABEL; or NAME=IMAGE:MASK for every prompt, with a "
                "name of letters, digits, spaces, - and _"
            )
    return classes


def _arguments() -> argparse.Namespace:
    parser = cli.Parser("segment", __doc__)
    parser.add_model_flag(required=True)
    parser.add_argument("--query", required=True, nargs="+", help="images, folders, patterns; a video, or its frames")
    shown = parser.add_mutually_exclusive_group(required=True)
    shown.add_argument(
        "--prompt", action="append", metavar="[NAME=]IMAGE:MASK[@LABEL]", default=[], help="may be repeated"
    )
    shown.add_argument("--first_mask", type=Path, help="of a video: PNG of the first frame's labels, 0 is background")
    parser.add_argument("--out", required=True, type=Path, help="mask to write, a PNG; or a folder")
    parser.add_argument("--overlay", type=Path, help="image with the object tinted and outlined; folder; video (.mp4)")
    parser.add_argument("--probability", type=Path, help="grey image of the object's probability; or a folder")
    parser.add_argument("--tile_size", type=int, help="cut queries into squares of this many pixels")
    parser.add_argument(
        "--batch_size", type=int, help="images or tiles computed together (default: 8 a device, on CPU 1)"
    )
    parser.add_argument("--devices", type=int, default=0, help="to share the work (default: all)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seed", type=int, default=0, help="of LDIS-n's noise (default 0)")
    parser.add_argument(
        "--min_score",
        type=float,
        metavar="S",
        help="masks with a lower score, 0 to 1, are emptied (default: the model's own; 0 keeps all)",
    )
    parser.add_argument("--ignore_label", type=int, help="mask value that is neither object nor background")
    parser.add_argument("--json", type=Path, help="also write masks, areas and scores to a file or /dev/stdout")
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    prediction_options.add_flags(parser)
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = _arguments()
    classes = _read_classes(args.prompt)
    from ldis_jax.commands import segment_files
    from ldis_jax.commands.segment_outputs import Outputs, check_apart, check_forms, places_of
    from ldis_jax.inference.read_prompts import open_prompts
    from ldis_jax.media.masks import IGNORE_LABEL
    from ldis_jax.support.files import check_writable, descriptor, write_json
    from ldis_jax.weights.hub import resolve
    from ldis_jax.weights.model_folder import model_hash

    queries = segment_files.find_queries(args.query)
    outputs = Outputs(args.out, args.overlay, args.probability)
    video = any(map(segment_files.is_video, queries)) or args.first_mask is not None
    queries = queries if video else list(dict.fromkeys(queries))  # frames may come again
    one = len(queries) == 1 and args.out.suffix != "" and not video
    check_forms(outputs, one=one, video=video)
    written = outputs.given() | ({"json": args.json} if args.json else {})
    for flag, path in written.items():
        check_writable(path / "mask.png" if os.path.isdir(path) and flag != "json" else path)
    prompts = open_prompts(classes, args.ignore_label) if classes else {}
    options = {"seed": args.seed, "ignore_label": args.ignore_label, "tile_size": args.tile_size}
    options |= prediction_options.given_options(args)
    if args.min_score is not None:
        options["min_score"] = args.min_score
    places = {} if one or video else places_of(queries, outputs)
    work: segment_files.ImageWork | segment_files.ClipWork
    if one:
        work = segment_files.ImageWork({queries[0]: outputs}, classes, None)
    else:
        made_by = {"model": model_hash(resolve(args.model)), "dtype": args.dtype, **options}
        if video:
            work = segment_files.clip_work(queries, classes, args.first_mask, outputs, made_by)
        else:
            work = segment_files.image_work(places, classes, outputs, made_by)
    given = [Path(path) for of_one in classes.values() for image, mask, _ in of_one for path in (image, mask)]
    check_apart([*queries, *given, *filter(None, [args.first_mask])], written, places, tuple(classes))

    import jax

    from ldis_jax.pipeline import LDISPipeline

    devices = args.devices or (jax.local_device_count() if work.many else 1)
    # Only of one image, on one device, does the command line say which program it takes.
    compile_for = None
    if not work.many and devices == 1 and args.tile_size is None:
        shots = max(len(pairs) for pairs in classes.values())
        compile_for = {"num_prompts": shots, "num_classes": len(classes), **prediction_options.given_options(args)}
    pipe = LDISPipeline.from_pretrained(args.model, dtype=args.dtype, compile_for=compile_for)
    pipe = pipe if devices == 1 else pipe.to(devices=devices)
    options["ignore_label"] = IGNORE_LABEL  # of masks that are opened
    report = work.run(pipe, prompts.get("", prompts), args.quiet, batch_size=args.batch_size, **options)
    if args.json is not None:
        if work.names:
            report["classes"] = {str(label): name for label, name in work.names.items()}
        every = {"masks": work.all_masks(report)} if isinstance(work, segment_files.ImageWork) else {}
        said = {"knows": pipe.knows, "scores_are_calibrated": pipe.task.confidence.is_calibrated}
        write_json(args.json, {**said, **report, **every})
    if not args.quiet and (args.json is None or descriptor(args.json) != 1):
        print(f"{args.out}: {segment_files.summary(report)}")
    if failed := report["failed"]:
        rest = f"; and {len(failed) - _SHOWN} more, which --json=FILE lists" if len(failed) > _SHOWN else ""
        raise LDISError(f"{len(failed)} of {len(queries)} images failed: {'; '.join(failed[:_SHOWN])}{rest}")


if __name__ == "__main__":
    cli.run(main)
