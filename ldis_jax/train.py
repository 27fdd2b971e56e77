"""The training loop, to be read once from top to bottom."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

from ldis_jax import sharding
from ldis_jax.checkpoint import Checkpoints
from ldis_jax.config import init_folder, to_json
from ldis_jax.convert import load_training_init, to_torch
from ldis_jax.convert.card import model_card, read_provenance
from ldis_jax.convert.folder import read_schedule, with_schedule, write_folder
from ldis_jax.convert.rules import weights_hash
from ldis_jax.convert.tensors import Weights
from ldis_jax.errors import LDISError
from ldis_jax.evaluation import Evaluation
from ldis_jax.files import write_json
from ldis_jax.input_pipeline import TrainEpisodes, TrainLoader, make_source, make_train_loader
from ldis_jax.metric_writer import MetricWriter
from ldis_jax.models.ldis import LDISModel
from ldis_jax.optim import learning_rate_schedule, make_optimizer
from ldis_jax.predict import make_predict
from ldis_jax.tasks import LDISN, Task, task_from_dict
from ldis_jax.train_state import TrainState, flatten, unflatten
from ldis_jax.train_step import StepMetrics, init_state, make_train_step


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains, evaluates on the way, and exports; run again on the same folder to continue.

    Args:
        config: see :mod:`ldis_jax.config`.
        workdir: gets ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``pictures/``,
            ``curves.png``, ``model/`` and ``report.json``.

    Returns:
        The content of ``report.json``.

    Raises:
        LDISError: bad config, data or weights; a loss that is not finite; a work folder of another model.
    """
    started = time.time()
    lead = jax.process_index() == 0

    # --- Model: frozen towers apart from what is trained ---
    task, model, frozen_files = initial_model(config)
    networks = model.config
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    graphdef, params, frozen = flatten(model)
    frozen = jax.device_put(frozen, sharding.replicated(mesh))

    # --- Optimizer and state, each array where the path rules put it ---
    tx = make_optimizer(config.optim, config.train_steps)
    state, state_sharding = init_state(params, tx, mesh)
    fingerprint = {"task": task.to_dict(), "networks": networks.to_dict()}
    fingerprint["frozen"] = {name: weights_hash(weights.tensors) for name, weights in frozen_files.items()}
    if isinstance(task, LDISN):
        fingerprint["schedule"] = task.schedule.to_dict()
    fingerprint |= {key: to_json(config)[key] for key in ("seed", "batch_size", "num_shots")}
    fingerprint |= {"sources": to_json(config.data.sources), "augment": config.data.augment}
    del params, model
    train_step = make_train_step(task, graphdef, tx, config.seed, mesh, state_sharding)

    # --- Data ---
    loader = make_loader(config, task)
    evaluation = Evaluation(config, task, workdir)
    predict = make_predict(task, graphdef, frozen, mesh)

    # --- Resume ---
    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(workdir / "checkpoints", config.keep_checkpoints, fingerprint) as checkpoints, loader:
        restored = checkpoints.restore(state)
        if restored is not None:
            state, data_state = restored
            loader.set_state(data_state)
        first = int(state.step)
        if lead:
            write_json(workdir / "config.json", to_json(config))
        writer = MetricWriter(workdir, first, enabled=lead)
        schedule = learning_rate_schedule(config.optim, config.train_steps)

        # --- Loop: nothing in it waits for the device, except to log ---
        no_metrics = jax.device_put(StepMetrics.empty(), sharding.replicated(mesh))
        metrics = no_metrics
        last_log, last_step = time.time(), first
        bar = tqdm(
            range(first, config.train_steps), "train", config.train_steps, False, initial=first, disable=not lead
        )
        bad_files = 0
        batches = prefetch(loader, mesh)
        for step in bar:
            batch, bad = next(batches)
            state, metrics = train_step(state, metrics, frozen, batch)
            bad_files += bad
            done = step + 1
            final = done == config.train_steps

            if done % config.log_every == 0 or final:
                values = {name: float(value) for name, value in metrics.compute().items()}
                if not np.isfinite(list(values.values())).all():
                    raise LDISError(
                        f"step {done}: {values}; the loss is not finite. Lower config.optim.learning_rate; the last "
                        f"good checkpoint in {workdir / 'checkpoints'} is kept"
                    )
                now = time.time()
                values |= {
                    "learning_rate": float(schedule(step)),
                    "steps_per_second": (done - last_step) / (now - last_log),
                    "bad_files": bad_files,  # since the run started, in this process
                }
                writer.write(done, {f"train/{name}": value for name, value in values.items()})
                bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
                metrics, last_log, last_step = no_metrics, now, done

            if done % config.checkpoint_every == 0 or final:
                _require_finite(state, done, workdir)
                checkpoints.save(state, {"step": done})
            if done % config.eval_every == 0 and not final:
                writer.write(done, evaluation.run(functools.partial(predict, state.params), done))
                last_log, last_step = time.time(), done

        # --- Final evaluation, export, report ---
        results = evaluation.run(functools.partial(predict, state.params), config.train_steps)
        writer.write(config.train_steps, results)
        writer.close()
        report = evaluation.report(results) | {"steps": config.train_steps, "seconds": round(time.time() - started, 1)}
        trained = sharding.gather(state.params, mesh)
        if lead:
            unet = to_torch(unflatten(graphdef, trained, frozen).unet)
            tensors = {
                "unet": Weights(unet, "unet"),
                **frozen_files,
            }  # as they came: on the device they may be bfloat16
            facts = read_provenance(init_folder(config.init.folder)).trained(
                config.data.sources, config.train_steps, config.batch_size, results
            )
            write_folder(workdir / "model", task, networks, tensors, model_card(task, networks, facts))
            writer.plot(workdir / "curves.png")
            write_json(workdir / "report.json", report)
    return report


def initial_model(config: ConfigDict) -> tuple[Task, LDISModel, dict[str, Weights]]:
    """(task, networks before the first step, the frozen ones' files).

    The networks are float32 where trained and of the compute type where frozen.
    """
    dtype = compute_dtype(config.dtype)
    folder = init_folder(config.init.folder)
    if not folder.is_dir():
        raise LDISError(f"config.init.folder={config.init.folder}: no such folder; see docs/weights.md")
    task = task_from_dict(config.task.to_dict(), "config.task")
    if (folder / "scheduler").is_dir():
        task = with_schedule(task, read_schedule(folder))  # what the UNet was trained to predict
    overrides = config.init.unet.to_dict() or None
    init = load_training_init(folder, task, overrides, seed=config.seed, dtype=dtype, frozen_dtype=dtype)
    return task, init.model, init.frozen


def compute_dtype(name: str) -> jnp.dtype:
    """The type of compute: "auto" is bfloat16, but float32 on CPU, where bfloat16 would be emulated."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise LDISError(f"config.dtype={name!r}: must be 'auto', 'float32' or 'bfloat16'")
    return jnp.dtype(name)


def make_loader(config: ConfigDict, task: Task) -> TrainLoader:
    """The batches of one process."""
    if config.batch_size % jax.device_count():
        raise LDISError(f"config.batch_size={config.batch_size}: must be a multiple of {jax.device_count()} devices")
    source = make_source(config.data.sources, task.image_size)
    length = config.train_steps * config.batch_size
    episodes = TrainEpisodes(source, config.num_shots, task.image_size, config.seed, length, config.data.augment)
    return make_train_loader(
        episodes,
        config.batch_size,
        num_workers=config.data.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


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


def _require_finite(state: TrainState, step: int, workdir: Path) -> None:
    """A checkpoint with NaN in it would be worse than none."""
    if not bool(jnp.isfinite(optax.tree.norm(state.params))):
        raise LDISError(
            f"step {step}: parameters are not finite; lower config.optim.learning_rate. "
            f"The last good checkpoint in {workdir / 'checkpoints'} is kept"
        )
