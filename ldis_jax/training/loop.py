"""The training loop, to be read once from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from ldis_jax.config import check_config, init_folder, to_json
from ldis_jax.errors import LDISError, TryAgainError, list_names
from ldis_jax.inference.mesh_predict import make_predict
from ldis_jax.input_pipeline import TrainEpisodes, TrainLoader, make_source, make_train_loader
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.lora import LoRA
from ldis_jax.models.params import flatten, unflatten
from ldis_jax.runtime import sharding
from ldis_jax.runtime.chips import peak_flops
from ldis_jax.runtime.memory import release_free_memory
from ldis_jax.runtime.preemption import PreemptedError, Preemption
from ldis_jax.support.files import only_one, write_json
from ldis_jax.tasks import Task
from ldis_jax.training.checkpoint import Checkpoints
from ldis_jax.training.compiled_step import ready_step
from ldis_jax.training.evaluation_sets import Evaluation
from ldis_jax.training.metric_writer import MetricWriter
from ldis_jax.training.optim import learning_rate_schedule, make_optimizer
from ldis_jax.training.profiling import Profiler
from ldis_jax.training.programs import compute_dtype, run_task
from ldis_jax.training.progress import CHECKPOINT, DATA, EVALUATION, EXPORT, START, STEP, Progress
from ldis_jax.training.report import write_training_page
from ldis_jax.training.step import NEVER, StepMetrics, StepOptions, init_state, state_shapes
from ldis_jax.weights import load_training_init, to_torch
from ldis_jax.weights.card import model_card, read_provenance
from ldis_jax.weights.lora_files import LORA_FILE, merge, trained_part, write_lora
from ldis_jax.weights.model_folder import write_folder
from ldis_jax.weights.rules import weights_hash
from ldis_jax.weights.tensors import Weights

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
    check_config(config)
    task = run_task(config)
    mesh = sharding.make_mesh(**config.mesh)
    loader = make_loader(config, task, mesh)
    evaluation = Evaluation(config, task, workdir, pictures=lead)
    profile = Profiler(config.profile, workdir / "profile")
    tx = make_optimizer(config.optim, config.train_steps)
    options = StepOptions.from_config(config.step)

    _make_folder(workdir)

    # --- Model: frozen towers apart from what is trained ---
    task, model, frozen_files = initial_model(config)
    networks = model.config
    graphdef, params, frozen = flatten(model)
    frozen = sharding.put(frozen, sharding.replicated(mesh))

    # --- The state's shapes, each array where the path rules put it ---
    shapes = state_shapes(params, tx, mesh, options)
    if lead and (large := sharding.large_replicated(params, mesh)):
        _LOGGER.warning("config.mesh.fsdp: these stay whole on every device: %s", list_names(large))
    fingerprint = {"task": task.to_dict(), "networks": networks.to_dict()}
    fingerprint["frozen"] = {name: weights_hash(weights.tensors) for name, weights in frozen_files.items()}
    if task.needs_schedule:
        fingerprint["schedule"] = task.schedule.to_dict()
    if (lora := model.lora) is not None:
        fingerprint["lora"] = dataclasses.asdict(lora)
    fingerprint |= {key: to_json(config)[key] for key in ("seed", "batch_size", "num_shots")}
    fingerprint |= {"sources": to_json(config.data.sources), "augment": config.data.augment}
    fingerprint |= {"step": dataclasses.asdict(options), "moment_dtype": config.optim.moment_dtype}
    del model
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    dtype = compute_dtype(config, jax.default_backend())
    train_step, flops = ready_step(config, mesh, dtype, with_flops=peak is not None)
    release_free_memory()

    predict = make_predict(task, graphdef, frozen, mesh)

    # --- Resume, or start ---
    busy = TryAgainError(f"{workdir}: another run works in it; wait for its end, or choose another --workdir")
    with (
        only_one(workdir, busy) if lead else contextlib.nullcontext(),
        profile as profiler,
        Progress(workdir / "stalled", 60 * config.watchdog_minutes) as progress,
        Preemption(mesh) as preemption,
        # It waits for the last save when it is left: watched, and whole if SIGTERM comes meanwhile.
        Checkpoints(workdir / "checkpoints", config.keep_checkpoints, fingerprint) as checkpoints,
        ThreadPoolExecutor(1) as waiter,
        loader,
    ):
        if checkpoints.started():
            del params  # their memory is the restored state's
            state, data_state = checkpoints.restore(shapes)
            loader.set_state(data_state)
            progress.set_state(data_state)
        elif (workdir / "model").exists():
            raise LDISError(
                f"{workdir}: has results, but no checkpoints to go on from; put its checkpoints/ back, or choose "
                f"another --workdir"
            )
        else:
            state, _ = init_state(params, tx, mesh, options)
            del params
        done = first = int(state.step)
        if lead:
            write_json(workdir / "config.json", to_json(config))
        writer = MetricWriter(workdir, first, enabled=lead)
        schedule = learning_rate_schedule(config.optim, config.train_steps)

        # --- Loop: nothing in it waits for the step just handed to the device, except to log and save ---
        no_metrics = sharding.put(StepMetrics.empty(), sharding.replicated(mesh))
        metrics = no_metrics
        bad_files = 0
        running: Future[float] | None = None

        def evaluate() -> dict[str, float]:
            progress.enter(EVALUATION, done)
            params = jax.device_put(state.best, sharding.replicated(mesh))  # gathered once, not in every batch

            def watched(batch: dict[str, np.ndarray]) -> jax.Array:
                progress.enter(EVALUATION, done)
                preemption.check()
                return predict(params, batch)

            results = evaluation.run(watched, done)
            if not (evaluated and done == first):  # else its line is there, from the run before
                writer.write(done, results)
            return results

        def save() -> None:
            _require_finite(metrics, config, workdir)
            progress.enter(CHECKPOINT, done)
            checkpoints.save(state, {"step": done, **progress.state()})

        try:
            evaluated = bool(multihost_utils.broadcast_one_to_all(np.array(writer.evaluated)))
            due = first % config.eval_every == 0 if first else config.eval.before
            if due and first < config.train_steps and not evaluated:
                evaluate()  # of a run that goes on: what was cut short after its checkpoint
            steps = range(first, config.train_steps)
            bar = tqdm(steps, "train", config.train_steps, False, initial=first, disable=not lead)
            batches = prefetch(loader, mesh)
            for step in bar:
                progress.enter(DATA if step > first else START, step)
                asked = time.monotonic()
                batch, bad = next(batches)
                got = time.monotonic()
                bad_files += bad
                progress.enter(STEP if step > first else START, step)  # the first one compiles
                with profiler.before(step + 1):
                    state, metrics = train_step(state, metrics, frozen, batch)
                # The device has the next step; the one before must end before the host goes on, so that batches do not
                # pile up on the device and time is booked where it was spent.
                if running is not None:
                    progress.overlap(max(0.0, min(running.result(), got) - asked))
                running = waiter.submit(_end_of, metrics)
                done = step + 1
                profiler.after(done, metrics)
                final = done == config.train_steps

                if done % config.log_every == 0 or final:
                    _require_finite(metrics, config, workdir)
                    checkpoints.check()
                    values = {name: float(value) for name, value in metrics.compute().items()}
                    values.pop("first_non_finite")
                    values |= {
                        "learning_rate": float(schedule(step)),
                        "bad_files": bad_files,  # since the run started, in this process
                        **progress.rates(config.batch_size),
                    }
                    if peak and "steps_per_second" in values:
                        values["mfu"] = flops * values["steps_per_second"] / peak
                    writer.write(done, {f"train/{name}": value for name, value in values.items()})
                    bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
                if done % config.checkpoint_every == 0 or final:
                    save()
                if done % config.log_every == 0:
                    metrics = no_metrics
                if done % config.eval_every == 0 and not final:
                    evaluate()
                preemption.check()
            results = evaluate()
        except PreemptedError:
            save()
            _LOGGER.warning("SIGTERM: stopped after step %s; run the same command again to continue", done)
            return None

        # --- Export, report ---
        progress.enter(EXPORT, done)
        writer.close()
        report = evaluation.report(results, writer.at(0) if config.eval.before else {})
        report |= {"steps": config.train_steps, "seconds": round(time.time() - started, 1)}
        trained = sharding.gather(state.best, mesh)
        if lead:
            unet = to_torch(unflatten(graphdef, trained, frozen).unet)
            tensors = dict(frozen_files)  # as they came: on the device they may be bfloat16
            if lora is None:
                tensors["unet"] = Weights(unet, "unet")
            else:
                alone = trained_part(unet, lora)
                write_lora(workdir / "lora" / LORA_FILE, task, alone)
                tensors["unet"] = merge(tensors["unet"], alone)
            facts = read_provenance(init_folder(config.init.folder)).trained(
                config.data.sources, config.train_steps, config.batch_size, results, new_unet=bool(config.init.unet)
            )
            write_folder(workdir / "model", task, networks, tensors, model_card(task, networks, facts))
            writer.plot(workdir / "curves.png")
            write_json(workdir / "report.json", report)
            write_training_page(workdir, report)
    # The others would wait for the one that exports when they exit, but not for long.
    multihost_utils.sync_global_devices("the run is done")
    return report


def initial_model(config: ConfigDict) -> tuple[Task, LDISModel, dict[str, Weights]]:
    """(task, networks before the first step, the frozen ones' files).

    The networks are float32 where trained and of the compute type where frozen.
    """
    dtype = jnp.dtype(compute_dtype(config, jax.default_backend()))
    folder = init_folder(config.init.folder)
    if not folder.is_dir():
        raise LDISError(f"config.init.folder={config.init.folder}: no such folder; see docs/weights.md")
    task = run_task(config)
    overrides = config.init.unet.to_dict() or None
    lora = LoRA.from_dict(config.lora.to_dict(), "config.lora")
    init = load_training_init(folder, task, overrides, seed=config.seed, dtype=dtype, frozen_dtype=dtype, lora=lora)
    init.model.unet.remat = config.remat
    return task, init.model, init.frozen


def make_loader(config: ConfigDict, task: Task, mesh: jax.sharding.Mesh) -> TrainLoader:
    """The part of each batch that lies on this process's devices."""
    parts = config.step.accumulate
    if config.batch_size % (jax.device_count() * parts):
        raise LDISError(
            f"config.batch_size={config.batch_size}: must be a multiple of {jax.device_count()} devices x {parts} parts"
        )
    source = make_source(config.data.sources, task.image_size)
    length = config.train_steps * config.batch_size
    episodes = TrainEpisodes(source, config.num_shots, task.image_size, config.seed, length, config.data.augment)
    rows = sharding.process_rows(mesh, config.batch_size, jax.process_index())
    return make_train_loader(episodes, config.batch_size, num_workers=config.data.num_workers, rows=rows)


def prefetch(loader: TrainLoader, mesh: jax.sharding.Mesh) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Device batches, one transfer ahead of the step that needs it, and how many bad files they met."""
    ahead: tuple[dict[str, jax.Array], int] | None = None
    for batch in loader:
        batch.pop("class_id")
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


def _make_folder(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LDISError(f"{workdir}: cannot be made ({error.strerror or error}); choose another --workdir") from None


def _require_finite(metrics: Any, config: ConfigDict, workdir: Path) -> None:
    """Waits for the last step."""
    step, size = int(metrics.first_non_finite.step), config.batch_size
    if step != NEVER:
        raise LDISError(
            f"step {step + 1}: the loss or its gradient is not finite, on episodes {step * size} to "
            f"{(step + 1) * size - 1} of seed {config.seed}. Lower config.optim.learning_rate; the last good "
            f"checkpoint in {workdir / 'checkpoints'} is kept"
        )
