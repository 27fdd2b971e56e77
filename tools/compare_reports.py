"""Compares two models by their reports on the same images: the gain in mIoU, with the 95 % interval of the gain.

    python tools/compare_reports.py reports/first.json reports/second.json

Both are reports of ``python -m ldis_jax.evaluate``, with the ``.records.jsonl`` that it left beside each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldis_jax.errors import LDISError
from ldis_jax.evaluation.intervals import miou_gain
from ldis_jax.evaluation.run import beside
from ldis_jax.support import cli
from ldis_jax.support.files import reading
from ldis_jax.support.json_files import parse_json, read_json
from ldis_jax.support.markdown import table, with_interval


def compare(first: Path, second: Path) -> list[list[str]]:
    """A row for the benchmark, or for each of its numbers of prompts: name, both mIoU, the gain.

    Raises:
        LDISError: a file is missing or no report of images; the episodes or the way to sum them up differ.
    """
    reports = [_report(path) for path in (first, second)]
    for key in ("benchmark", "episodes_hash", "data_hash", "accumulation"):
        one, other = (report.get(key) for report in reports)
        if one != other:
            raise LDISError(f"{second}: {key} is {other}, in {first} {one}; evaluate both alike")
    rows = []
    for parts in zip(*(_parts(*pair) for pair in zip((first, second), reports, strict=True)), strict=True):
        (name, figures, records, folds), (_, other_figures, other_records, _) = parts
        gain = miou_gain(records, other_records, reports[0]["accumulation"], folds)
        rows.append([name, *(with_interval(values, "miou") for values in (figures, other_figures))])
        rows[-1].append(with_interval(gain, "gain"))
    return rows


def _report(path: Path) -> dict[str, Any]:
    report = read_json(path)
    if not {"benchmark", "accumulation", "episodes_hash"} <= set(report):
        raise LDISError(f"{path}: no report of images; of videos compare the intervals in the reports")
    return report


def _parts(
    path: Path, report: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]], list[int] | None]]:
    """Name, figures, records and episodes of each fold, of every number of prompts."""
    lines = beside(path, ".records.jsonl")
    with reading(lines):
        _, *records = (parse_json(line) for line in lines.read_bytes().splitlines())
    curve, folds = report.get("k_shot_curve"), report.get("folds")
    if len(records) != report["episodes"] * len(curve or [report]):
        raise LDISError(f"{lines}: does not belong to {path}; evaluate again")
    for i, figures in enumerate(curve or [report]):
        name = f"{report['benchmark']}, K = {figures['num_shots']}" if curve else report["benchmark"]
        part = records[i * report["episodes"] : (i + 1) * report["episodes"]]
        present = [record for record in part if not record["absent"]]
        yield name, figures, present, [fold["episodes"] for fold in folds] if folds else None


def main() -> None:
    """Prints the table."""
    parser = cli.Parser("tools/compare_reports.py", __doc__)
    parser.add_argument("first", type=Path, help="report of one model")
    parser.add_argument("second", type=Path, help="report of the other, on the same episodes")
    args = parser.parse_args()
    head = ["benchmark", "first mIoU", "second mIoU", "gain"]
    print(table([head, ["---"] * len(head), *compare(args.first, args.second)]))


if __name__ == "__main__":
    cli.run(main)
