"""Plots of training and of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldis_jax.media.overlays import PALETTE
from ldis_jax.support.files import atomic_write

_CURVES = (1, 0, 3, 4, 5, 6)  # without yellow, which white paper swallows


def plot_curves(curves: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    """One small plot a quantity over steps, its curves ("seen/miou", "unseen/miou") together; loss logarithmic.

    Args:
        curves: "<group>/<quantity>" or "<quantity>" -> (steps, values).
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plots: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for name, curve in curves.items():
        group, _, quantity = name.rpartition("/")
        plots.setdefault(quantity, {})[group] = curve
    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
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
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_bars(values: Mapping[str, float], title: str, path: Path) -> None:
    """Horizontal bars, the longest on top.

    Args:
        values: name -> percent.
        title: above the plot.
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(values, key=lambda name: values[name])
    figure = Figure(figsize=(6.4, 1.2 + 0.22 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh(names, [values[name] for name in names], color=tuple(PALETTE[1] / 255))
    axes.set(title=title, xlim=(0, 100))
    axes.margins(y=0.01)
    axes.grid(axis="x", alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_shots(points: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], path: Path) -> None:
    """MIoU over the number of prompts, beside its gain over the fewest; bands are the 95 % intervals.

    Args:
        points: "num_shots", "miou", "miou_interval", "gain" and "gain_interval", in percent; by number of prompts. An
            interval may be None.
        baselines: name -> mIoU, the same for any number of prompts.
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    shots = [point["num_shots"] for point in points]
    titles = {"miou": "mIoU, percent", "gain": f"mIoU over {shots[0]}-shot, points"}
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
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
