"""Tables, plots and verdicts of docs/evidence.md, of the results that the sweep stored.

python benchmarks/evidence/report.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.evidence import pictures, plots
from benchmarks.evidence.claims import FAILS, HOLDS, OPEN, UNTESTED, Evidence, evidence
from benchmarks.evidence.figures import Results, miou
from benchmarks.evidence.sweep import SEEDS, result_path
from ldis_jax.support.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence.md"
PLOTS = ROOT / "docs" / "evidence"
_BLOCK = re.compile(r"(<!-- evidence: (\w+) -->\n).*?(<!-- end of evidence -->)", re.DOTALL)


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
            "Rendered for the first episodes of unseen classes by seed 1, whose mIoU is in brackets: R as decoded,\n"
            f"object where its green exceeds its red.\n\n![What variants render]({_sheet(found)})"
        )
    return "\n\n".join(parts) + "\n"


def _shown(found: Evidence) -> str:
    """What the plot shows, in words."""
    if found.curve:
        return f"mIoU by the {found.curve}, and gains, with intervals over seeds"
    return f"{', '.join(plots.columns(found))}: a dot a seed; gains with their intervals"


def _sheet(found: Evidence) -> str:
    return f"evidence/{found.key}_painted.png"


def summary(all_found: Sequence[tuple[str, Evidence]]) -> str:
    """A line a claim."""
    verdicts = (HOLDS, OPEN, FAILS, UNTESTED)
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


def page(text: str, results: Results) -> str:
    """The page with its blocks of figures made again."""
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
            plots.plot(found, PLOTS / f"{found.key}.png")
        stored = {
            f"{label} ({miou(results.by_variant[variant][SEEDS[0]]):.1f})": path
            for label, variant in found.painted.items()
            if (path := result_path(variant, SEEDS[0]).with_suffix(".png")).is_file()
        }
        if stored:
            pictures.write_page_sheet(PAGE.parent / _sheet(found), pictures.sheet(stored))
    plots.plot_tradeoff(results, PLOTS / "tradeoff.png")
    with atomic_write(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
