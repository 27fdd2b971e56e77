r"""Measures a model on a benchmark.

Example:
    python -m ldis_jax.evaluate --model=runs/ldis1/model --benchmark=coco20i-fold0-1shot --data=data/records/coco20i \
        --out=reports/coco20i-fold0-1shot.json

    python -m ldis_jax.evaluate --model=runs/mine/model --benchmark=folder --data=my_images --out=reports/mine.json

Writes the JSON report, a Markdown page beside it with images of the best, median and worst episodes, and the records
of every episode; run again to go on where a run was cut off. The episodes are a function of the benchmark and the data,
and the report carries their hash.

A benchmark without "foldF" in its name, such as coco20i-1shot, runs all four folds and gives their mean.

The benchmark "folder" is of your own images in one folder or several (--data A B), each with images/ and masks/ or in
VOC's layout: every query is asked for each class that it shows. The episodes are frozen beside the report, for
--manifest of the next model.

With --num_shots 1 3 5 10 20 the report is a curve over the number of prompts, all on the same queries. With
--multihost, and the same command on every host, the hosts share the work and the first one writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldis_jax.errors import LDISError
from ldis_jax.evaluation.protocols import FOLDED, FOLDER, FOLDER_ABSENT, PROTOCOLS
from ldis_jax.support import cli, prediction_options
from ldis_jax.support.checks import MOST_ROWS, check_integer
from ldis_jax.support.files import check_writable, is_stream, write_json

if TYPE_CHECKING:
    from ldis_jax.evaluation.protocols import Protocol
    from ldis_jax.evaluation.report import Subject

# Flags of the benchmark "folder" which a manifest replaces; they are fields of Choice.
_CHOICE = ("queries", "prompts", "classes", "min_object_percent")


def _arguments() -> argparse.Namespace:
    benchmarks = [*PROTOCOLS, *FOLDED, FOLDER, FOLDER_ABSENT]
    parser = cli.Parser("evaluate", __doc__, textwrap.fill(f"benchmarks: {', '.join(benchmarks)}", 100))
    parser.add_model_flag(required=True)
    parser.add_argument("--benchmark", required=True, choices=benchmarks, metavar="NAME", help="see below")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        nargs="+",
        action="extend",
        metavar="DIR",
        help="data set: built by data/build.py, or a folder in VOC layout; of --benchmark=folder one folder or several",
    )
    parser.add_argument("--out", required=True, type=Path, help="report to write")
    parser.add_argument("--manifest", type=Path, help="frozen episodes; drawn from the data where left out")
    parser.add_argument("--num_shots", type=int, nargs="+", metavar="K", help="a curve over these numbers of prompts")
    _add_folder_flags(parser)
    parser.add_argument("--batch_size", type=int, default=32, help="episodes at a time over all devices (default 32)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--min_score", type=float, help="below it a mask is empty (default: the model's own; 0: never)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument(
        "--multihost", action="store_true", help="join the other hosts of a TPU slice or SLURM job first"
    )
    prediction_options.add_flags(parser)
    return parser.parse_args()


def _add_folder_flags(parser: cli.Parser) -> None:
    group = parser.add_argument_group("--benchmark=folder only")
    group.add_argument(
        "--queries",
        metavar="WHICH",
        help="held_out (of training; the default), all, or a file that lists names; the other images are prompts",
    )
    group.add_argument("--prompts", type=Path, metavar="FILE", help="a list of the images that are prompts")
    group.add_argument(
        "--classes",
        nargs="+",
        metavar="C",
        help="label values, names, or lists in classes.json, such as unseen_classes",
    )
    group.add_argument(
        "--min_object_percent",
        type=float,
        metavar="P",
        help="a class counts where it covers so much of an image (default 0)",
    )
    group.add_argument(
        "--episodes_per_class", type=int, metavar="N", help="at most N queries of a class (default: all)"
    )
    group.add_argument("--skip_bad", action="store_true", help="leave out files that cannot be used")


def main() -> None:
    """Entry point."""
    args = _arguments()
    shots = _checked_shots(args)

    import jax

    if args.multihost:
        from ldis_jax.runtime import multihost

        multihost.join()

    from ldis_jax.evaluation import hosts

    evaluate, subject = hosts.on_every(functools.partial(prepare, args, shots))
    with tempfile.TemporaryDirectory() as folder:
        # Nothing can lie beside a pipe or /dev/stdout: it gets the report alone.
        beside_none = is_stream(args.out)
        report = evaluate(subject, Path(folder) / "report.json" if beside_none else args.out)
    if jax.process_index() == 0:
        if beside_none:
            write_json(args.out, report)
        _print_report(report, args.out)


def _checked_shots(args: argparse.Namespace) -> list[int]:
    """Numbers of prompts, sorted, once it is known that the flags go together."""
    check_integer("--batch_size", args.batch_size, maximum=MOST_ROWS)
    of_folders = args.benchmark in (FOLDER, FOLDER_ABSENT)
    shots, of = sorted(set(args.num_shots or ())), "images"
    if args.benchmark.endswith("-absent") and len(shots) > of_folders:
        raise LDISError(f"--num_shots: {args.benchmark} is of one number of prompts, and has no curve; leave it out")
    if not of_folders:
        of = "several folds" if args.benchmark in FOLDED else PROTOCOLS[args.benchmark].kind
    if min(shots, default=1) < 1 or (of != "images" and (shots or args.manifest)):
        raise LDISError(
            f"--num_shots, --manifest: {args.benchmark} is a benchmark of {of}; both flags are for images, "
            f"of one fold, and numbers of prompts are from 1 on"
        )
    given = [f"--{name}" for name in (*_CHOICE, "episodes_per_class") if getattr(args, name) is not None]
    if of_folders and args.manifest and given:
        raise LDISError(f"{given[0]}: the episodes of --manifest are chosen already; leave one of both out")
    if not of_folders:
        given += ["--skip_bad"] * args.skip_bad + ["--data with several folders"] * (len(args.data) > 1)
        if given:
            raise LDISError(f"{given[0]}: for --benchmark={FOLDER} only, and this is {args.benchmark}; leave it out")
    if args.episodes_per_class is not None:
        check_integer("--episodes_per_class", args.episodes_per_class, maximum=MOST_ROWS)
    if args.min_object_percent is not None and not 0 <= args.min_object_percent < 100:
        raise LDISError(f"--min_object_percent={args.min_object_percent}: must be from 0 to below 100")
    return shots


def prepare(args: argparse.Namespace, shots: list[int]) -> tuple[functools.partial[dict[str, Any]], Subject]:
    """Opens data and model, on the devices of this host alone; ``shots`` are those of a curve, else empty.

    Returns:
        One of the functions of ``evaluation.run`` with protocol and data bound, which takes the model and the report's
        path; and the model.

    Raises:
        LDISError: missing or unusable data or model, an option that the model does not have, or no place for a report.
    """
    import jax
    import jax.numpy as jnp

    from ldis_jax import __version__
    from ldis_jax.evaluation.benchmark_data import data_hash
    from ldis_jax.evaluation.protocols import domain
    from ldis_jax.evaluation.report import Subject
    from ldis_jax.inference.program import make_predict
    from ldis_jax.models.params import flatten
    from ldis_jax.runtime import sharding
    from ldis_jax.weights import load_model
    from ldis_jax.weights.card import read_provenance
    from ldis_jax.weights.hub import resolve
    from ldis_jax.weights.model_folder import model_hash

    if jax.process_index() == 0:
        check_writable(args.out)
    protocol, evaluate = _open_data(args, shots)
    folder = resolve(args.model, args.revision)
    task, model, card = load_model(folder, jnp.dtype(args.dtype))
    options = prediction_options.given_options(args)
    try:
        task = dataclasses.replace(task, **options)
    except (TypeError, ValueError) as error:  # a field that the task does not have, or a value that it does not take
        why = error if task.name == "ldisn" else "an option of LDIS-n, and this model is LDIS-1"
        raise LDISError(f"--{next(iter(options))}: {why}") from None
    min_score = task.confidence.threshold(args.min_score)
    confidence = dataclasses.replace(task.confidence, min_score=min_score)
    task = dataclasses.replace(task, confidence=confidence)
    provenance = read_provenance(card)
    facts = {
        "model": folder.name,
        "model_hash": model_hash(folder),
        "task": task.name,
        "settings": {**task.to_dict(), "dtype": args.dtype},
        "knows": provenance.statement,
        "domain": domain(provenance.data, protocol.data, protocol.classes),
        "software": f"ldis_jax {__version__}, jax {jax.__version__}, {jax.default_backend()}",
    }
    if args.benchmark not in (FOLDER, FOLDER_ABSENT) and (digest := data_hash(args.data[0], protocol)):
        facts["data_hash"] = digest
    mesh = sharding.make_mesh(devices=jax.local_devices())
    graphdef, *params = flatten(model)
    trained, frozen = jax.device_put(params, sharding.replicated(mesh))
    predict = functools.partial(make_predict(task, graphdef, frozen, mesh), trained)
    batch_size = -(-args.batch_size // jax.process_count())
    return evaluate, Subject(facts, predict, task.image_size, batch_size, task.tile, confidence, provenance.data)


def _open_data(args: argparse.Namespace, shots: list[int]) -> tuple[Protocol, functools.partial[dict[str, Any]]]:
    """The protocol, and the function that measures it as :func:`prepare` returns it."""
    from ldis_jax.evaluation import folder_benchmark, run
    from ldis_jax.evaluation.benchmark_data import open_curve, open_episodes, open_source
    from ldis_jax.input_pipeline.chosen_folders import HELD_OUT, Choice

    if args.benchmark in (FOLDER, FOLDER_ABSENT):
        default = Choice() if args.manifest else Choice(HELD_OUT)
        given = {name: value for name in _CHOICE if (value := getattr(args, name)) is not None}
        choice = dataclasses.replace(default, **given, skip_bad=args.skip_bad)
        absent = args.benchmark == FOLDER_ABSENT
        opened = folder_benchmark.open_folders(args.data, choice, shots, args.episodes_per_class, args.manifest, absent)
        return opened.protocol, functools.partial(folder_benchmark.evaluate_folders, opened)
    (data,) = args.data
    if args.benchmark in FOLDED:
        protocol, folds = FOLDED[args.benchmark]
        of_fold = {fold: open_episodes(open_source(data, fold), fold) for fold in folds}
        return protocol, functools.partial(run.evaluate_folds, protocol, of_fold)
    protocol = PROTOCOLS[args.benchmark]
    source = open_source(data, protocol)
    if protocol.kind != "images":
        return protocol, functools.partial(run.evaluate_videos, protocol, source)
    if shots:
        curve = open_curve(source, protocol, shots, args.manifest)
        return protocol, functools.partial(run.evaluate_curve, protocol, curve)
    episodes = open_episodes(source, protocol, args.manifest)
    return protocol, functools.partial(run.evaluate_images, protocol, episodes)


def _print_report(report: dict[str, Any], out: Path) -> None:
    from ldis_jax.evaluation.folder_benchmark import manifest_place
    from ldis_jax.evaluation.run import beside
    from ldis_jax.support.markdown import with_interval

    points = {f"{point['num_shots']} prompts": point for point in report.get("k_shot_curve", ())}
    points |= {f"fold {i}": fold for i, fold in enumerate(report.get("folds", ()))}
    if "miou" in report or not points:
        points["mean of folds" if "folds" in report else "this model"] = report
    for who, values in (points | report["baselines"]).items():
        figures = [name for name in values if f"{name}_interval" in values]
        print(f"{who:<16} {'   '.join(f'{name} {with_interval(values, name)}' for name in figures)}")
    for note in report.get("notes", ()):
        print(f"note: {note}")
    what = "videos" if "videos" in report else "episodes"
    print(f"{report[what]} {what}, hash {report[f'{what}_hash']}; {report['domain']}")
    frozen = [manifest_place(out, report["folders"])] if "folders" in report else []
    print(out if is_stream(out) else ", ".join(map(str, [out, beside(out, ".md"), *frozen])))


if __name__ == "__main__":
    cli.run(main)
