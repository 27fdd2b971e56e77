"""Tables, plots and verdicts of docs/evidence.md, of the results that the sweep stored.

python benchmarks/evidence/report.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from matplotlib.figure import Figure

from benchmarks.evidence import pictures
from benchmarks.evidence.claims import FAILS, HOLDS, OPEN, Evidence, evidence
from benchmarks.evidence.figures import Count, Results, miou
from benchmarks.evidence.sweep import SEEDS, result_path
from ldis_jax.files import atomic_write
from ldis_jax.visualize import write_page_sheet

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence.md"
PLOTS = ROOT / "docs" / "evidence"
_BLOCK = re.compile(r"(<!-- evidence: (\w+) -->\n).*?(<!-- end of evidence -->)", re.DOTALL)
# Dark enough for white and light enough for black, and apart for colour-blind eyes.
_COLOURS = ("#0077bb", "#cc5511")
_GREY = "#808080"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def block(found: Evidence) -> str:
    """Table, plot and comparisons of one claim."""
    if not found.comparisons:  # one variant alone says nothing
        return "No result yet.\n"
    paper = ", ".join(filter(None, ("paper", found.paper_of, "COCO mIoU")))
    head = [*found.columns, paper] if found.paper else list(found.columns)
    rows = [[label, *(figure.text() for figure in figures)] for label, figures in found.rows]
    if found.paper:
        rows = [[*row, found.paper.get(row[0], "")] for row in rows]
    sentences = [
        [c.says if c.claimed else f"also: {c.says}", c.gain.text(signed=True), c.verdict] for c in found.comparisons
    ]
    parts = [
        _table([head, *rows]),
        f"![{_shown(found)}](evidence/{found.key}.png)",
        _table([["sentence", "gain, points", "verdict"], *sentences]),
    ]
    if found.painted:
        parts.append(
            "Painted for the first episodes of unseen classes by seed 1, whose mIoU stands in brackets: R as decoded,\n"
            f"object where its green exceeds its red.\n\n![What variants paint]({_sheet(found)})"
        )
    return "\n\n".join(parts) + "\n"


def _plotted(found: Evidence) -> int:
    """The first column of what differs by seed."""
    return next(i for i, figure in enumerate(found.rows[0][1]) if not isinstance(figure, Count))


def _shown(found: Evidence) -> str:
    """What the plot shows, in words."""
    if found.curve:
        return f"mIoU by the {found.curve}, with intervals over seeds"
    return f"{found.columns[1 + _plotted(found)]}, by seed"


def _sheet(found: Evidence) -> str:
    return f"evidence/{found.key}_painted.png"


def summary(all_found: Sequence[tuple[str, Evidence]]) -> str:
    """A line a claim."""
    verdicts = (HOLDS, OPEN, FAILS)
    rows = [
        [claim, f"**{found.verdict}**", *("; ".join(found.saying(verdict)) for verdict in verdicts)]
        for claim, found in all_found
    ]
    return _table([["claim", "verdict at this scale", *verdicts], *rows]) + "\n"


def facts(results: Results) -> str:
    """What was run, on what, and for how long."""
    every = [result for seeds in results.by_variant.values() for result in seeds.values()]
    if not every:
        return "No result yet.\n"
    hours = sum(result["seconds"] for result in every) / 3600
    seeds = sorted({result["seed"] for result in every})
    machines = sorted({result["machine"] for result in every})
    versions = sorted({", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in every})
    hashes = sorted({(r["report"]["evaluation_set"], r["report"]["episodes_hash"]) for r in every})
    rows = [
        ("runs", f"{len(every)}, of {len(results.by_variant)} configs"),
        ("seeds", ", ".join(map(str, seeds))),
        ("wall time, other work beside it included", f"{hours:.1f} hours"),
        ("machine", "; ".join(machines)),
        ("versions", "; ".join(versions)),
        ("episodes", "; ".join(f"{name} {digest}" for name, digest in hashes)),
    ]
    return _table([("what", "value"), *rows]) + "\n"


def plot(found: Evidence, path: Path) -> None:
    """A dot a seed, a bar the mean; of a curve a line a column, its interval shaded."""
    figure = Figure(figsize=(7.2, 3.4 if found.curve else 0.9 + 0.34 * len(found.rows)), dpi=110, layout="tight")
    axes = figure.subplots()
    if found.curve:
        x = [float(label) for label, _ in found.rows]
        for column, (name, colour) in enumerate(zip(found.columns[1:], _COLOURS, strict=False)):
            estimates = [figures[column] for _, figures in found.rows]
            mean = [estimate.mean for estimate in estimates]
            half = [estimate.half or 0.0 for estimate in estimates]
            axes.plot(x, mean, "o-", color=colour, label=name)
            low, high = ([m + sign * h for m, h in zip(mean, half, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel=found.curve, ylabel="mIoU, %", xticks=x)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)  # above the curves
    else:
        column = _plotted(found)
        for y, (_, figures) in enumerate(found.rows):
            values = figures[column].values
            axes.plot(values, [y] * len(values), "o", color=_COLOURS[0], alpha=0.6, markeredgewidth=0)
            axes.plot([figures[column].mean] * 2, [y - 0.3, y + 0.3], color=_COLOURS[1], linewidth=2)
        axes.set_yticks(range(len(found.rows)), [label for label, _ in found.rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.04 * max(value for _, figures in found.rows for value in figures[column].values))
        axes.set_xlabel(found.columns[1 + column] + ", %")
    axes.grid(axis="y" if found.curve else "x", color=_GREY, alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def page(text: str, results: Results) -> str:
    """The page with its blocks of figures made anew."""
    all_found = list(evidence(results))
    blocks = {found.key: block(found) for _, found in all_found}
    blocks |= {"summary": summary(all_found), "facts": facts(results)}
    return _BLOCK.sub(lambda match: f"{match[1]}\n{blocks[match[2]]}\n{match[3]}", text)


def main() -> None:
    """Writes the page and the plots."""
    results = Results(PLOTS / "results")
    text = page(PAGE.read_text(encoding="utf-8"), results)
    for _, found in evidence(results):
        if found.comparisons:
            plot(found, PLOTS / f"{found.key}.png")
        stored = {
            f"{label} ({miou(results.by_variant[variant][SEEDS[0]]):.1f})": path
            for label, variant in found.painted.items()
            if (path := result_path(variant, SEEDS[0]).with_suffix(".png")).is_file()
        }
        if stored:
            write_page_sheet(PAGE.parent / _sheet(found), pictures.sheet(stored))
    with atomic_write(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
