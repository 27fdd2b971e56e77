"""Metrics as JSON lines, TensorBoard events and a plot."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from ldis_jax.media.plots import plot_curves
from ldis_jax.support.files import atomic_write, writing
from ldis_jax.support.json_files import parse_json

_RATES = ("learning_rate", "bad_files", "steps_per_second", "episodes_per_second", "data_wait", "goodput", "mfu")
_Line = dict[str, int | float]
_NOT_PLOTTED = {"step", *(f"train/{name}" for name in _RATES)}


class MetricWriter:
    """Writes ``metrics.jsonl`` and ``tensorboard/`` of a work folder, on one process only."""

    def __init__(self, workdir: Path, first_step: int, *, enabled: bool):
        """Continues a run at ``first_step``: lines of later steps, from before a crash, are dropped."""
        self._enabled, self.evaluated = enabled, False  # whether the lines of ``first_step`` hold an evaluation
        if not enabled:
            return
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] <= first_step]
        names = {name for line in kept if line["step"] == first_step for name in line if name != "step"}
        self.evaluated = any(not name.startswith("train/") for name in names)
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, and one point a metric; raises :class:`LDISError` where the disk takes no more."""
        if not self._enabled:
            return
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def at(self, step: int) -> dict[str, float]:
        """All that was written of a step, also by runs before."""
        lines = read_metrics(self._path) if self._enabled else []
        return {name: value for line in lines if line["step"] == step for name, value in line.items()}

    def plot(self, path: Path) -> None:
        """Draws the curve of every metric but the rates."""
        if not self._enabled:
            return
        curves: dict[str, tuple[list[int], list[float]]] = {}
        for line in read_metrics(self._path):
            for name, value in line.items():
                if name not in _NOT_PLOTTED:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(int(line["step"]))
                    values.append(value)
        if curves:
            plot_curves(curves, path)

    def close(self) -> None:
        """Flushes both."""
        if self._enabled:
            with writing(self._path):
                self._file.close()
                self._board.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``, {"step": ..., name: value}; others, such as one cut short, are passed over."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            line = parse_json(text, _Line, nan=True)
            if isinstance(line.get("step"), int):
                lines.append(line)
    return lines
