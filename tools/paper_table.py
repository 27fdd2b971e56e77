"""The paper's tables beside what a reproduction reached, of the reports of ``python -m ldis_jax.evaluate``.

    python tools/paper_table.py --reports=reports

Reads ``REPORTS/RUN/BENCHMARK.json``; RUN names a row, such as "ldis1". Without ``--reports`` it writes the predicted
hours into docs/reproduce.md, of the cells that tools/tpu_table.py compiled.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldis_jax.errors import LDISError
from ldis_jax.support import cli
from ldis_jax.support.files import atomic_write
from ldis_jax.support.markdown import with_interval

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reproduce.md"
CELLS = ROOT / "docs" / "tpu"
_START, _END = "<!-- hours: tools/paper_table.py -->\n", "<!-- end of hours -->"
_STEPS, _BATCH = 160_000, 64  # the recipe
_PRICE, _PRICED = 1.20, "v5e"  # US dollars a chip-hour, as the page says

# Its figures, through a secondary source, unchecked against its PDF: (run, benchmark) -> percent.
PAPER = {
    ("ldis1", "ldis-pascal"): 85.3,
    ("ldis1", "ldis-coco"): 62.6,
    ("ldis1", "ldis-davis16"): 67.8,
    ("ldisn", "ldis-pascal"): 76.7,
    ("ldisn", "ldis-coco"): 52.6,
    ("ldisn", "ldis-davis16"): 64.7,
    ("ldisn_pre_mask", "ldis-coco"): 43.8,
    ("ldisn_post_mask", "ldis-coco"): 49.7,
    ("ldisn_vanilla", "ldis-coco"): 39.4,
    ("ldisn_perturbed", "ldis-coco"): 48.7,
    ("ldis1_lora_rank1", "ldis-coco"): 53.0,
    ("ldis1_pixel", "ldis-coco"): 55.6,
}
_CURVE = ("ldisn_post_mask-prompts", "ldis-coco")  # what the paper's starts at is post-masking's figure
_PAPER_SHOTS = {1: 49.7, 3: 55.3, 5: 56.2, 10: 56.7, 20: 55.7}
_NAMES = {"j_and_f": "J&F", "miou": "mIoU"}  # the first that a report has is compared


def rows(reports: Path) -> list[list[str]]:
    """A row a report: run, benchmark, figure, what was reached with its interval, the paper's."""
    found = []
    for path in sorted(reports.glob("*/*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if "benchmark" not in report:
            raise LDISError(f"{path}: no report of ldis_jax.evaluate; keep others out of {reports}")
        run, benchmark = path.parent.name, report["benchmark"]
        for values in report.get("k_shot_curve", [report]):
            name = next(name for name in _NAMES if name in values)
            if "k_shot_curve" in report:
                paper = _PAPER_SHOTS.get(values["num_shots"]) if (run, benchmark) == _CURVE else None
                benchmark_and_shots = f"{benchmark}, K = {values['num_shots']}"
            else:
                paper = PAPER.get((run.removeprefix("published-"), benchmark))
                benchmark_and_shots = benchmark
            published = "" if paper is None else f"{paper:.1f}"
            found.append([run, benchmark_and_shots, _NAMES[name], with_interval(values, name), published])
    if not found:
        raise LDISError(f"--reports={reports}: no RUN/BENCHMARK.json in it; evaluate something first")
    return found


def hours() -> list[list[str]]:
    """Predicted hours of the recipe, of the slices that are compiled: run, slice, hours, chip-hours, dollars."""
    found = []
    for path in sorted(CELLS.glob("ldis[1n]-*-train.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["batch_size"] == _BATCH and cell["fits"]:
            slice_hours = _STEPS * cell["predicted_ms"] / 3.6e6
            chip_hours = slice_hours * cell["chips"]
            cost = f"{chip_hours * _PRICE:.0f}" if cell["topology"].startswith(_PRICED) else ""
            run = path.name.partition("-")[0]
            found.append([run, cell["topology"], f"{slice_hours:.1f}", f"{chip_hours:.0f}", cost])
    return found


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def hours_table() -> str:
    """The table of :func:`hours`."""
    return markdown(["run", "slice", "predicted hours", "chip-hours", "US dollars"], hours())


def main() -> None:
    """Prints or writes a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--reports", type=Path, help="folder of folders of reports")
    which.add_argument("--write_hours", action="store_true", help="write the predicted hours into docs/reproduce.md")
    args = parser.parse_args()
    if args.reports:
        print(markdown(["run", "benchmark", "figure", "reached", "paper"], rows(args.reports)))
        return
    before, rest = PAGE.read_text(encoding="utf-8").split(_START)
    with atomic_write(PAGE) as temporary:
        temporary.write_text(f"{before}{_START}\n{hours_table()}\n\n{_END}{rest.split(_END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
