"""Plots of docs/evidence.md: the figures of every variant, and below them what they say about the claim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.evidence.claims import SCORED, Evidence
from benchmarks.evidence.figures import Contrast, Count, Estimate, Results
from ldis_jax.support.files import atomic_write

# Dark enough for white and light enough for black, and apart for colour-blind eyes.
_COLOURS = ("#0077bb", "#cc5511")
_GREY = "#808080"
_ROW, _AXIS = 0.3, 0.75  # inches of a row's height and of an axis with its label


def columns(found: Evidence) -> tuple[str, ...]:
    """What is plotted of a table."""
    if found.plotted:
        return found.plotted
    return (next(c for c, f in zip(found.columns[1:], found.rows[0][1], strict=True) if not isinstance(f, Count)),)


def plot(found: Evidence, path: Path) -> None:
    """Figures above, gains below, each on axes of their own."""
    above = 3.0 if found.curve else _AXIS + _ROW * len(found.rows)
    below = _AXIS + _ROW * len(found.comparisons)
    figure = Figure(figsize=(7.2, above + below), dpi=110, layout="constrained")
    shown = [found.curve] if found.curve else columns(found)
    grid = figure.add_gridspec(2, len(shown), height_ratios=(above, below))
    if found.curve:
        _curves(figure.add_subplot(grid[0, 0]), found)
    else:
        panels = [figure.add_subplot(grid[0, i]) for i in range(len(shown))]
        for axes, column in zip(panels, shown, strict=True):
            axes.sharex(panels[0])
            _dots(axes, found, column)
            axes.tick_params(axis="y", labelleft=axes is panels[0])
        panels[0].set_xlim(left=0)
    _gains(figure.add_subplot(grid[1, :]), found)
    for axes in figure.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def plot_tradeoff(results: Results, path: Path) -> None:
    """What a threshold empties of absent objects against the mIoU that is left of present ones.

    A line a seed along thresholds; a dot is the model's own.
    """
    figure = Figure(figsize=(7.2, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for i, (label, variant) in enumerate(SCORED.items()):
        style, colour = ("-", "--")[i // 2], _COLOURS[i % 2]
        for seed, result in results.by_variant.get(variant, {}).items():
            curve, own = result["absence"]["curve"], result["absence"]["curve"][str(result["absence"]["min_score"])]
            points = [curve[threshold] for threshold in sorted(curve, key=float)]
            empty, miou = ([point[name] for point in points] for name in ("empty", "miou"))
            axes.plot(empty, miou, style, color=colour, linewidth=1, label=label if seed == 1 else None)
            axes.plot(own["empty"], own["miou"], "o", color=colour)
    axes.set(xlabel="empty masks of absent objects, %", ylabel="mIoU of present objects, %", ylim=(0, None))
    axes.grid(color=_GREY, alpha=0.3)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def _dots(axes: Axes, found: Evidence, column: str) -> None:
    """A dot a seed, a bar the mean."""
    estimates = [figures[found.columns.index(column) - 1] for _, figures in found.rows]
    for y, estimate in enumerate(estimates):
        axes.plot(estimate.values, [y] * len(estimate.values), "o", color=_COLOURS[0], alpha=0.6, markeredgewidth=0)
        axes.plot([estimate.mean] * 2, [y - 0.3, y + 0.3], color=_COLOURS[1], linewidth=2)
    _rows(axes, [label for label, _ in found.rows])
    axes.set_xlabel(column if "%" in column else f"{column}, %")


def _curves(axes: Axes, found: Evidence) -> None:
    """A line a column, its interval shaded."""
    x = [float(label) for label, _ in found.rows]
    for column, (name, colour) in enumerate(zip(found.columns[1:], _COLOURS, strict=False)):
        estimates = [figures[column] for _, figures in found.rows]
        mean = [estimate.mean for estimate in estimates]
        half = [estimate.half or 0.0 for estimate in estimates]
        axes.plot(x, mean, "o-", color=colour, label=name)
        low, high = ([m + sign * h for m, h in zip(mean, half, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel=found.curve, ylabel="mIoU, %", xticks=x)
    axes.grid(axis="y", color=_GREY, alpha=0.3)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)  # above the curves


def _gains(axes: Axes, found: Evidence) -> None:
    """A bar the interval, a dot a seed where seeds are compared one by one; dotted what cannot be tested."""
    for y, comparison in enumerate(found.comparisons):
        gain = comparison.gain
        style = "-" if comparison.testable else ":"
        axes.plot(_interval(gain), [y] * 2, style, color=_COLOURS[1], linewidth=2, solid_capstyle="butt")
        axes.plot([gain.mean] * 2, [y - 0.25, y + 0.25], color=_COLOURS[1], linewidth=2)
        if not isinstance(gain, Contrast):
            axes.plot(gain.values, [y] * len(gain.values), "o", color=_COLOURS[0], alpha=0.6, markeredgewidth=0)
    axes.axvline(0, color=_GREY)
    _rows(axes, [comparison.says for comparison in found.comparisons])
    axes.set_xlabel("gain, points")


def _interval(gain: Estimate) -> tuple[float, float]:
    half = gain.half or 0.0
    return gain.mean - half, gain.mean + half


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", color=_GREY, alpha=0.3)
