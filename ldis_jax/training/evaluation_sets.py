"""Runs the evaluators that a config names, and makes the final report of their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ldis_jax.errors import LDISError
from ldis_jax.evaluators import EpisodeEvaluator, PromptSwapEvaluator, SheetEvaluator
from ldis_jax.evaluators.episodes import Predict
from ldis_jax.input_pipeline import (
    FrozenEpisodes,
    IndexedSource,
    ProceduralScenes,
    episode_rng,
    make_source,
    read_manifest,
)
from ldis_jax.support.files import checked_file
from ldis_jax.tasks import Task
from ldis_jax.tasks.confidence import NOT_CALIBRATED, Confidence, Measured


class Evaluation:
    """All evaluators of a run. ``config.eval.main_set`` is the one that is reported."""

    def __init__(self, config: ConfigDict, task: Task, workdir: Path, sheets: bool = True):
        """Opens the data; raises :class:`LDISError` on bad data before any training.

        ``sheets`` is whether this process, of those that evaluate together, writes image sheets.
        """
        settings, size = config.eval, task.image_size
        self._workdir = workdir
        self._sets: dict[str, EpisodeEvaluator] = {}
        self._hashes: dict[str, str] = {}
        self._measured: dict[int, list[Measured]] = {}  # by step
        for name, entry in settings.sets.items():
            try:
                episodes = frozen_episodes(entry, size, f"config.eval.sets.{name}")
            except LDISError:
                if entry.source.get("others"):
                    continue  # none are left, or too few of their images
                raise
            self._hashes[name] = episodes.hash
            self._sets[name] = EpisodeEvaluator(episodes, size, settings.batch_size, entry.protocol, task.tile)
        self.main_set = settings.main_set or next(iter(self._sets), "")
        if self.main_set not in self._sets:
            raise LDISError(
                f"config.eval.main_set={self.main_set!r}: must be one of config.eval.sets, {sorted(self._sets)}"
            )
        self.choose_by = settings.choose_by
        if self.choose_by and self.choose_by not in self._sets:
            raise LDISError(f"config.eval.choose_by={self.choose_by!r}: must be one of {sorted(self._sets)}")
        self.calibrate_by = tuple(filter(None, map(str.strip, settings.calibrate_by.split(","))))
        for name in self.calibrate_by:
            if name not in self._sets:
                raise LDISError(f"config.eval.calibrate_by: {name!r} must be one of {sorted(self._sets)}")
        if self.main_set in self._unreported:
            raise LDISError(
                f"config.eval.main_set={self.main_set!r}: must not be the set of choose_by or calibrate_by, whose "
                f"figures are not reported"
            )
        self._writes_sheets = sheets
        self._shown = self._sets[self.main_set].episodes[: settings.pictures]
        self._swap = None
        if settings.prompt_swap:
            scenes = ProceduralScenes("unseen", size)
            pairs = [scenes.draw_swap(episode_rng(0, i), 1) for i in range(settings.prompt_swap)]
            self._swap = PromptSwapEvaluator(pairs, size, settings.batch_size)
        self._batch_size, self._size, self._tile = settings.batch_size, size, task.tile

    def choose(self, predict: Predict, step: int) -> dict[str, float]:
        """The figures, after a step, of the set that chooses one."""
        measured: list[Measured] | None = [] if self.calibrate_by == (self.choose_by,) else None
        found = self._sets[self.choose_by].run(predict, measured=measured)
        results = {f"{self.choose_by}/{key}": value for key, value in found}
        if measured is not None:
            self._measured[step] = measured
        return results

    def calibrate(self, predict: Predict, step: int) -> Confidence:
        """The confidence, after a step, that fits the sets for it; the default where there are none.

        Where one set is for that and chose the step, it was predicted already.
        """
        if not self.calibrate_by:
            return NOT_CALIBRATED
        measured = self._measured.get(step, [])
        if not measured:
            for name in self.calibrate_by:
                dict(self._sets[name].run(predict, measured=measured))
        return Confidence.fit(measured)

    def run(self, predict: Predict, step: int, confidence: Confidence) -> dict[str, float]:
        """{"<set>/miou": percent, "<set>/fb_iou": ..., "prompt_swap": ...}; writes ``pictures/<step>.png``.

        Of all sets but those that choose the step and fit the confidence.
        """
        names = self._reported
        if self.choose_by and step == 0:  # no more than what the report has beside the end's figures
            names = [self.main_set]
        results = {f"{name}/{key}": value for name in names for key, value in self._sets[name].run(predict, confidence)}
        if self._swap is not None:
            results |= dict(self._swap.run(predict))
        if self._shown:
            path = self._workdir / "pictures" / f"{step:06d}.png" if self._writes_sheets else None
            batch_size = min(self._batch_size, len(self._shown))
            results |= dict(SheetEvaluator(self._shown, self._size, batch_size, path, tile=self._tile).run(predict))
        return results

    def report(self, results: dict[str, float], before: dict[str, float]) -> dict[str, Any]:
        """The figures of the main set beside the baselines' on the same episodes, as ``report.json`` has them.

        ``results`` are those of :meth:`run`; ``before`` the same before the first step, if known.
        """
        found = {name: self._sets[name].baselines() for name in self._reported}
        baselines = {
            baseline: {f"{name}/{key}": value for name, of in found.items() for key, value in of[baseline].items()}
            for baseline in found[self.main_set]
        }
        return {
            "evaluation_set": self.main_set,
            **self._figures(results),
            **({"before": self._figures(before)} if f"{self.main_set}/miou" in before else {}),
            "baselines": {baseline: self._figures(figures) for baseline, figures in baselines.items()},
            "prompt_swap": results.get("prompt_swap"),
            "episodes": len(self._sets[self.main_set].episodes),
            "episodes_hash": self._hashes[self.main_set],
        }

    def _figures(self, found: dict[str, float]) -> dict[str, Any]:
        of_set: dict[str, dict[str, float]] = {name: {} for name in self._sets}
        for key, value in found.items():
            name, slash, figure = key.rpartition("/")
            if slash:
                of_set[name][figure] = value
        others = {name: figures for name, figures in of_set.items() if name != self.main_set}
        flat = {f"{name}/{figure}": value for name, figures in others.items() for figure, value in figures.items()}
        return {**of_set[self.main_set], "other_sets": flat}

    @property
    def _reported(self) -> list[str]:
        return [name for name in self._sets if name not in self._unreported]

    @property
    def _unreported(self) -> tuple[str, ...]:
        return self.choose_by, *self.calibrate_by


def frozen_episodes(entry: ConfigDict, image_size: int, where: str) -> FrozenEpisodes:
    """The episodes of one ``eval_set``."""
    source = make_source({where: entry.source}, image_size)
    if not entry.manifest:
        if entry.episodes < 1:
            raise LDISError(f"{where}: give a manifest or a number of episodes")
        seed, absent = entry.get("seed", 0), entry.get("absent", 0.0)
        if not 0 <= absent <= 1:
            raise LDISError(f"{where}: absent={absent}: must be from 0 to 1")
        return FrozenEpisodes.of_draws(source, entry.episodes, entry.num_shots, seed, absent)
    if not isinstance(source, IndexedSource):
        raise LDISError(f"{where}.manifest: names images of a folder; a {entry.source.kind!r} source has none")
    records = read_manifest(checked_file(entry.manifest))
    if len({len(record.prompts) for record in records}) > 1:
        raise LDISError(f"{entry.manifest}: episodes differ in their number of prompts; freeze one manifest a number")
    return FrozenEpisodes.of_records(source, records)
