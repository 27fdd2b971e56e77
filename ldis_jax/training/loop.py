"""The training loop, to be read once from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from ldis_jax.config import to_json
from ldis_jax.errors import LDISError, TryAgainError, list_names
from ldis_jax.inference.batches import Predict
from ldis_jax.inference.program import make_predict
from ldis_jax.input_pipeline import TrainEpisodes, TrainLoader, make_source
from ldis_jax.models.params import Params
from ldis_jax.runtime import sharding
from ldis_jax.runtime.chips import peak_flops
from ldis_jax.runtime.memory import release_free_memory
from ldis_jax.runtime.preemption import PreemptedError, Preemption
from ldis_jax.support.files import only_one, write_json
from ldis_jax.tasks.confidence import NOT_CALIBRATED
from ldis_jax.training.advice import advice
from ldis_jax.training.best_step import BestStep
from ldis_jax.training.checkpoint import Checkpoints, has_saved
from ldis_jax.training.compiled_step import ReadyStep, ready_step
from ldis_jax.training.evaluation_sets import Evaluation
from ldis_jax.training.metric_writer import MetricWriter
from ldis_jax.training.optim import learning_rate_schedule
from ldis_jax.training.profiling import Profiler
from ldis_jax.training.progress import CHECKPOINT, DATA, EVALUATION, EXPORT, START, STEP, Progress
from ldis_jax.training.results import write_model, write_training_page
from ldis_jax.training.run import Run
from ldis_jax.training.step import NEVER, StepMetrics, TrainState, init_state

_LOGGER = logging.getLogger(__name__)


def train(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """Trains, evaluates on the way, and exports; run again on the same folder to continue.

    Args:
        config: see :mod:`ldis_jax.config`.
        workdir: gets ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``pictures/``,
            ``curves.png``, ``model/``, ``report.json``, ``report.md``; with LoRA ``lora/``, with ``config.profile``
            ``profile/``, and ``stalled/`` where nothing moved.

    Returns:
        The content of ``report.json``; None where SIGTERM stopped the run, after a checkpoint.

    Raises:
        LDISError: bad config, data or weights; a loss that is not finite; a work folder of another model, or without a
            usable checkpoint; a disk that is full.
    """
    started = time.time()
    lead = jax.process_index() == 0

    # --- Data: whatever is wrong with them, or with the config, shows before any weight is read ---
    run = Run.from_config(config, sharding.make_mesh(**config.mesh), jax.default_backend())
    loader = make_loader(run)
    evaluation = Evaluation(config, run.task, workdir, sheets=lead)
    profiler = Profiler(config.profile, workdir / "profile")
    if (workdir / "model").exists() and not has_saved(workdir / "checkpoints"):
        raise LDISError(
            f"{workdir}: has results, but no checkpoints to go on from; put its checkpoints/ back, or choose another "
            f"--workdir"
        )

    busy = TryAgainError(f"{workdir}: another run works in it; wait for its end, or choose another --workdir")
    with only_one(workdir, busy) if lead else contextlib.nullcontext():
        # --- Model: frozen networks apart from what is trained, and the compiled step ---
        graphdef, params, frozen, frozen_files = run.start()
        frozen = sharding.put(frozen, sharding.replicated(run.mesh))
        if lead and (large := sharding.large_replicated(params, run.mesh)):
            _LOGGER.warning("config.mesh.fsdp: these stay whole on every device: %s", list_names(large))
        fingerprint = run.fingerprint(frozen_files)
        peak = peak_flops(run.mesh.devices.flat[0].device_kind)
        step = ready_step(run, with_flops=peak is not None)
        release_free_memory()
        predict = make_predict(run.task, graphdef, frozen, run.mesh)

        with (
            profiler,
            Progress(workdir / "stalled", 60 * config.watchdog_minutes) as progress,
            Preemption(run.mesh) as preemption,
            # It waits for the last save when it is left: watched, and whole if SIGTERM comes meanwhile.
            Checkpoints(workdir / "checkpoints", config.keep_checkpoints, fingerprint) as checkpoints,
            loader,
        ):
            # --- Resume, or start ---
            chosen = BestStep(config.eval.patience)
            if checkpoints.started():
                del params  # their memory is the restored state's
                state, data_state = checkpoints.restore(run.state_shapes())
                for part in (loader, progress, chosen):
                    part.set_state(data_state)
            else:
                state, _ = init_state(params, run.optimizer, run.mesh, run.options)
                del params
            if lead:
                write_json(workdir / "config.json", to_json(config))
            writer = MetricWriter(workdir, int(state.step), enabled=lead)

            # --- Loop ---
            tools = (evaluation, chosen, predict, writer, checkpoints, progress, preemption, profiler)
            trainer = Trainer(run, workdir, state, frozen, step, peak, *tools)
            del state  # the steps use it up
            try:
                results = trainer.train(loader)
            except PreemptedError:
                trainer.save()
                _LOGGER.warning("SIGTERM: stopped after step %s; run the same command again to continue", trainer.done)
                return None

            # --- Export, report ---
            progress.enter(EXPORT, trainer.done)
            writer.close()
            report = evaluation.report(results, writer.at(0) if config.eval.before else {})
            report |= {**trainer.outcome(results), "seconds": round(time.time() - started, 1)}
            model = (graphdef, sharding.to_host(trainer.state.best, run.mesh), frozen)
            if lead:
                write_model(run, trainer.confidence, workdir, model, frozen_files, report["steps"], results)
                writer.plot(workdir / "curves.png")
                write_json(workdir / "report.json", report)
                write_training_page(workdir, report)
    # The others would wait for the one that exports when they exit, but not for long.
    multihost_utils.sync_global_devices("the run is done")
    return report


@dataclasses.dataclass
class Trainer:
    """One start of a run: what changes from step to step, and what is done between steps."""

    run: Run
    workdir: Path
    state: TrainState
    frozen: Params
    step: ReadyStep
    peak: float | None  # FLOP/s of a device, where they are known
    evaluation: Evaluation
    chosen: BestStep
    predict: Callable[[Params, dict[str, np.ndarray]], jax.Array]
    writer: MetricWriter
    checkpoints: Checkpoints
    progress: Progress
    preemption: Preemption
    profiler: Profiler

    def __post_init__(self) -> None:
        self.first = self.done = int(self.state.step)  # steps done, at this start and now
        # Whether the evaluation due at this start is in the metrics already, from the run before.
        self._evaluated = bool(multihost_utils.broadcast_one_to_all(np.array(self.writer.evaluated)))
        self._no_metrics = sharding.put(StepMetrics.empty(), sharding.replicated(self.run.mesh))
        self._metrics = self._no_metrics
        self._schedule = learning_rate_schedule(self.run.config.optim, self.run.config.train_steps)
        self._bad_files = 0
        self.confidence = NOT_CALIBRATED  # of the network at the end
        self._running: Future[float] | None = None  # when the last step that was handed over ends

    def train(self, loader: TrainLoader) -> dict[str, float]:
        """Takes the steps that are left; nothing in it waits for the last one handed over, but to log and save.

        Returns:
            The figures of the evaluation at the end.

        Raises:
            PreemptedError: SIGTERM, after a step or in an evaluation; the state is whole.
            LDISError: a loss or a gradient that is not finite, or a disk that is full.
        """
        config = self.run.config
        due = self.first % config.eval_every == 0 if self.first else config.eval.before
        if self.first and self.evaluation.choose_by:
            self.checkpoints.keep(self.chosen.step)
            if self._chooses:
                self._choose()  # what a checkpoint holds are the figures before its own
        elif due and self.first < config.train_steps and not self._evaluated:
            self.evaluate()  # of a run that goes on: what was cut short after its checkpoint
        steps = range(self.first, config.train_steps)
        bar = tqdm(steps, "train", config.train_steps, False, initial=self.first, disable=jax.process_index() != 0)
        batches = prefetch(loader, self.run.mesh)
        with ThreadPoolExecutor(1) as waiter:
            for _ in bar:
                if self.chosen.is_over:
                    break
                self._take_step(batches, waiter)
                final = self.done == config.train_steps
                if self.done % config.log_every == 0 or final:
                    self._log(bar)
                if self.done % config.checkpoint_every == 0 or final:
                    self.save()
                if self.done % config.log_every == 0:
                    self._metrics = self._no_metrics
                if self._chooses:
                    self._choose()
                elif self.done % config.eval_every == 0 and not final:
                    self.evaluate()
                self.preemption.check()
        if self.chosen.step not in (None, self.done):
            del self.state  # two of them may not fit
            self.state = self.checkpoints.restore_step(self.chosen.step, self.run.state_shapes())
        self.confidence = self.evaluation.calibrate(self._predict(), int(self.state.step))
        return self.evaluate()

    def _take_step(self, batches: Iterator[tuple[dict[str, jax.Array], int]], waiter: ThreadPoolExecutor) -> None:
        """Hands a step to the device and waits for the end of the one before, not for its own."""
        first = self.done == self.first  # it compiles
        self.progress.enter(START if first else DATA, self.done)
        asked = time.monotonic()
        batch, bad = next(batches)
        got = time.monotonic()
        self._bad_files += bad
        self.progress.enter(START if first else STEP, self.done)
        with self.profiler.before(self.done + 1):
            self.state, self._metrics = self.step.run(self.state, self._metrics, self.frozen, batch)
        # The step before must end before the host goes on, so that batches do not pile up on the device and time is
        # booked where it was spent.
        if self._running is not None:
            self.progress.overlap(max(0.0, min(self._running.result(), got) - asked))
        self._running = waiter.submit(_end_of, self._metrics)
        self.done += 1
        self.profiler.after(self.done, self._metrics)

    def _log(self, bar: tqdm) -> None:
        config = self.run.config
        self._require_finite()
        self.checkpoints.check()
        values = {name: float(value) for name, value in self._metrics.compute().items()}
        values.pop("first_non_finite")
        values |= {
            "learning_rate": float(self._schedule(self.done - 1)),
            "bad_files": self._bad_files,  # since the run started, in this process
            **self.progress.rates(config.batch_size),
        }
        if self.peak and "steps_per_second" in values:
            values["mfu"] = self.step.flops * values["steps_per_second"] / self.peak
        self.writer.write(self.done, {f"train/{name}": value for name, value in values.items()})
        bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)

    def save(self) -> None:
        """Writes a checkpoint in the background; raises :class:`LDISError` where the last steps are not finite."""
        if int(self.state.step) != self.done:
            return  # the best step is back, from a checkpoint of its own
        self._require_finite()
        self.progress.enter(CHECKPOINT, self.done)
        self.checkpoints.save(self.state, {"step": self.done, **self.progress.state(), **self.chosen.state()})

    def _require_finite(self) -> None:
        """Waits for the last step."""
        step, config = int(self._metrics.first_non_finite.step), self.run.config
        if step != NEVER:
            raise LDISError(
                f"step {step + 1}: the loss or its gradient is not finite, on episodes {step * config.batch_size} to "
                f"{(step + 1) * config.batch_size - 1} of seed {config.seed}. Lower config.optim.learning_rate; the "
                f"last good checkpoint in {self.workdir / 'checkpoints'} is kept"
            )

    @property
    def _chooses(self) -> bool:
        """True if an evaluation that chooses is due after the last step."""
        config = self.run.config
        due = self.done % config.eval_every == 0 or self.done == config.train_steps
        return bool(self.evaluation.choose_by) and due

    def _choose(self) -> None:
        """Evaluates on the set that chooses, and keeps the step if it is the best yet."""
        self.save()
        results = self.evaluation.choose(self._predict(), self.done)
        figure = results[f"{self.evaluation.choose_by}/miou"]
        best = self.chosen.add(self.done, figure)
        self.checkpoints.keep(self.chosen.step)
        self._write(results, self.evaluation.choose_by, ", the best yet" * best)

    def evaluate(self) -> dict[str, float]:
        """The figures of the evaluation after the last step, which are written down too."""
        results = self.evaluation.run(self._predict(), self.done, self.confidence)
        self._write(results, self.evaluation.main_set)
        return results

    def _write(self, results: dict[str, float], shown: str, remark: str = "") -> None:
        if not (self._evaluated and self.done == self.first):  # else its line is there
            self.writer.write(self.done, results)
        if jax.process_index() == 0:
            text = f"step {self.done}: mIoU {results[f'{shown}/miou']:.1f} on {shown}{remark}"
            tqdm.write(text, file=sys.stderr)

    def outcome(self, results: dict[str, float]) -> dict[str, Any]:
        """The report's part on the finished run: "steps" of the model that is kept, and "advice"."""
        steps = int(self.state.step)
        return {"steps": steps, "advice": advice(self.run, results, self.chosen.figures, steps)}

    def _predict(self) -> Predict:
        """The evaluators' predict function for the current state."""
        self.progress.enter(EVALUATION, self.done)
        # Gathered once, not in every batch.
        params = jax.device_put(self.state.best, sharding.replicated(self.run.mesh))

        def watched(batch: dict[str, np.ndarray]) -> jax.Array:
            self.progress.enter(EVALUATION, self.done)
            self.preemption.check()
            return self.predict(params, batch)

        return watched


def make_loader(run: Run) -> TrainLoader:
    """The part of each batch that lies on this process's devices."""
    config, size, parts = run.config, run.task.image_size, run.options.accumulate
    if config.batch_size % (jax.device_count() * parts):
        raise LDISError(
            f"config.batch_size={config.batch_size}: must be a multiple of {jax.device_count()} devices x {parts} parts"
        )
    source = make_source(config.data.sources, size)
    length = config.train_steps * config.batch_size
    data, shots = config.data, config.num_shots
    tile, absent = run.task.tile, data.absent
    episodes = TrainEpisodes(source, shots, size, config.seed, length, data.augment, data.rescale, tile, absent)
    rows = sharding.process_rows(run.mesh, config.batch_size, jax.process_index())
    return TrainLoader(episodes, config.batch_size, num_workers=config.data.num_workers, rows=rows)


def prefetch(loader: TrainLoader, mesh: jax.sharding.Mesh) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Device batches, one transfer ahead of the step that needs it, and how many bad files they met."""
    ahead: tuple[dict[str, jax.Array], int] | None = None
    for batch in loader:
        bad = int(batch.pop("bad_files").sum())
        current, ahead = ahead, (sharding.to_devices(batch, mesh), bad)
        if current is not None:
            yield current
    if ahead is not None:
        yield ahead


def _end_of(metrics: Any) -> float:
    """Waits for the step that gives them; its end, in seconds of ``time.monotonic``."""
    jax.block_until_ready(metrics)
    return time.monotonic()
