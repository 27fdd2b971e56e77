"""Which step of a run is kept, and when there is no point in going on."""

from __future__ import annotations

from typing import Any


class BestStep:
    """The figures of the evaluations that choose, step by step; the greatest wins, of equal ones the first."""

    def __init__(self, patience: int):
        """Ends a run after ``patience`` evaluations without a better one; 0 never does."""
        self._patience = patience
        self.figures: dict[int, float] = {}

    def add(self, step: int, figure: float) -> bool:
        """Takes the figure of a step later than the others, or that of the last again; whether it is the best yet."""
        self.figures[step] = figure
        return self.step == step

    @property
    def step(self) -> int | None:
        """The best one; None before the first."""
        return max(self.figures, key=lambda step: (self.figures[step], -step), default=None)

    @property
    def is_over(self) -> bool:
        """True if as many evaluations as are waited for came after the best."""
        later = [step for step in self.figures if self.step is not None and step > self.step]
        return 0 < self._patience <= len(later)

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint, JSON-able."""
        return {"chosen_by": [[step, figure] for step, figure in self.figures.items()]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.figures = {int(step): float(figure) for step, figure in state.get("chosen_by", [])}
