"""Plots of training and of benchmarks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldis_jax.media.overlays import PALETTE
from ldis_jax.support.files import atomic_write

_CURVES = (1, 0, 3, 4, 5, 6)  # without yellow, which white paper swallows


def plot_curves(curves: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    """A PNG of ("<group>/<quantity>" or "<quantity>" -> (steps, values)): a plot a quantity, with a curve a group."""
    plots: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for name, curve in curves.items():
        group, _, quantity = name.rpartition("/")
        plots.setdefault(quantity, {})[group] = curve
    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    with _figure(4.2 * columns, 3.0 * rows, path) as figure:
        for i, (quantity, groups) in enumerate(plots.items()):
            axes = figure.add_subplot(rows, columns, i + 1)
            for colour, (group, (steps, values)) in enumerate(groups.items()):
                rgb = tuple(PALETTE[_CURVES[colour % len(_CURVES)]] / 255)
                axes.plot(steps, values, color=rgb, marker="o" if len(steps) < 30 else None, markersize=3, label=group)
            axes.set(title=quantity, xlabel="step")
            axes.ticklabel_format(useOffset=False)
            axes.locator_params(axis="x", integer=True)
            if quantity == "loss" and all(min(values) > 0 for _, values in groups.values()):
                axes.set_yscale("log")
            if len(groups) > 1:
                axes.legend()
            axes.grid(alpha=0.3)


def plot_bars(values: Mapping[str, float], title: str, path: Path) -> None:
    """A PNG of (name -> percent) as horizontal bars, the longest on top."""
    names = sorted(values, key=lambda name: values[name])
    with _figure(6.4, 1.2 + 0.22 * len(names), path) as figure:
        axes = figure.add_subplot()
        axes.barh(names, [values[name] for name in names], color=tuple(PALETTE[1] / 255))
        axes.set(title=title, xlim=(0, 100))
        axes.margins(y=0.01)
        axes.grid(axis="x", alpha=0.3)


def plot_shots(points: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], path: Path) -> None:
    """MIoU over the number of prompts, beside its gain over the fewest; bands are the 95 % intervals.

    Args:
        points: "num_shots", "miou", "miou_interval", "gain" and "gain_interval", in percent; by number of prompts. An
            interval may be None.
        baselines: name -> mIoU, the same for any number of prompts.
        path: PNG to write.
    """
    shots = [point["num_shots"] for point in points]
    titles = {"miou": "mIoU, percent", "gain": f"mIoU over {shots[0]}-shot, points"}
    with _figure(9.0, 3.6, path) as figure:
        for i, (name, title) in enumerate(titles.items()):
            axes = figure.add_subplot(1, 2, i + 1)
            colour = tuple(PALETTE[1] / 255)
            axes.plot(shots, [point[name] for point in points], color=colour, marker="o", label="this model")
            low, high = zip(*(point[f"{name}_interval"] or (point[name],) * 2 for point in points), strict=True)
            axes.fill_between(shots, low, high, color=colour, alpha=0.2, linewidth=0)
            if name == "miou":
                for j, (baseline, value) in enumerate(baselines.items()):
                    axes.axhline(value, color=tuple(PALETTE[_CURVES[1 + j]] / 255), linestyle="--", label=baseline)
                figure.legend(loc="outside lower center", ncols=1 + len(baselines))
            else:
                axes.axhline(0, color="grey", linewidth=1)
            axes.set(title=title, xlabel="prompts", xscale="log")
            axes.set_xticks(shots, [str(k) for k in shots])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)


def plot_reliability(rows: Sequence[Sequence[float]], error: float, path: Path) -> None:
    """A PNG of the true IoU over the score, whose points are as large as they have episodes, beside the diagonal.

    Args:
        rows: (mean score, mean IoU, episodes) of each interval of the score.
        error: the expected calibration error.
        path: PNG to write.
    """
    scores, ious, counts = zip(*rows, strict=True)
    with _figure(4.2, 4.0, path) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        axes.plot(scores, ious, color=tuple(PALETTE[1] / 255), linewidth=1)
        sizes = [20 + 280 * count / sum(counts) for count in counts]
        axes.scatter(scores, ious, sizes, color=tuple(PALETTE[1] / 255))
        axes.set(title=f"calibration error {error:.3f}", xlabel="score", ylabel="true IoU", xlim=(0, 1), ylim=(0, 1))
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)


@contextlib.contextmanager
def _figure(width: float, height: float, path: Path) -> Iterator[Any]:
    """An empty figure, which becomes a PNG; sides in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
