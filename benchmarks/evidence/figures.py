"""Figures of a variant over its seeds, and the difference of two variants."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

_LEVEL = 0.95
Figure = Callable[[Mapping[str, Any]], float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and Student's 95 % interval of it; no interval of a single seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.values))

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        n = len(self.values)
        return float(stats.t.ppf((1 + _LEVEL) / 2, n - 1) * stats.sem(self.values)) if n > 1 else None

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies above or below 0; else 0, which decides nothing."""
        if self.half is None or abs(self.mean) <= self.half:
            return 0
        return 1 if self.mean > 0 else -1

    def text(self, signed: bool = False) -> str:
        """Such as "63.9 ± 1.2"."""
        form = "+.1f" if signed else ".1f"
        return f"{self.mean:{form}}" + ("" if self.half is None else f" ± {self.half:.1f}")


@dataclasses.dataclass(frozen=True)
class Contrast(Estimate):
    """How far the mean of ``values`` lies above that of ``others``, seeds that share nothing; Welch's interval."""

    others: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Of ``values``, less that of ``others``."""
        return float(np.mean(self.values) - np.mean(self.others))

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        if min(len(self.values), len(self.others)) < 2:
            return None
        low, high = stats.ttest_ind(self.values, self.others, equal_var=False).confidence_interval(_LEVEL)
        return float(high - low) / 2


class Count(Estimate):
    """What is the same for every seed, and nothing to plot."""

    def text(self, signed: bool = False) -> str:
        """Such as "60"."""
        return f"{self.mean:.0f}"


class Results:
    """The stored results by variant and seed."""

    def __init__(self, folder: Path):
        """Reads ``VARIANT-SEED.json`` of a folder."""
        self.by_variant: dict[str, dict[int, dict[str, Any]]] = {}
        for path in sorted(folder.glob("*-*.json")):
            result = json.loads(path.read_text(encoding="utf-8"))
            self.by_variant.setdefault(result["variant"], {})[result["seed"]] = result

    def has(self, *variants: str) -> bool:
        """Whether all of them have a result."""
        return all(variant in self.by_variant for variant in variants)

    def of(self, variant: str, figure: Figure) -> Estimate:
        """A figure over the seeds of a variant."""
        return Estimate(tuple(figure(result) for _, result in sorted(self.by_variant[variant].items())))

    def gain(self, first: str, second: str, figure: Figure) -> Estimate:
        """By how much ``second`` exceeds ``first``, seed by seed: equal seeds have equal episodes and first weights."""
        a, b = self.by_variant[first], self.by_variant[second]
        return Estimate(tuple(figure(b[seed]) - figure(a[seed]) for seed in sorted(a.keys() & b.keys())))

    def contrast(self, first: str, second: str, figure: Figure) -> Estimate:
        """As :meth:`gain`, of runs that share neither episodes nor all first weights, whatever their seed."""
        return Contrast(self.of(second, figure).values, self.of(first, figure).values)

    def within(self, variant: str, first: Figure, second: Figure) -> Estimate:
        """By how much one figure of a variant exceeds another, seed by seed."""
        return self.of(variant, lambda result: second(result) - first(result))


def miou(result: Mapping[str, Any], name: str = "") -> float:
    """Of the run's own evaluation, in percent; of its main set where no name is given."""
    report = result["report"]
    return report["miou"] if name in ("", report["evaluation_set"]) else report["other_sets"][f"{name}/miou"]
