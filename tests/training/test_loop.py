"""The loop on the smallest networks: it learns, resumes bit for bit, and does the same on every mesh."""

import json
import shutil
import signal

import jax
import numpy as np
import optax
import pytest

from ldis_jax import LDISError, LDISPipeline
from ldis_jax.input_pipeline import TrainEpisodes
from ldis_jax.models.params import flatten
from ldis_jax.runtime import sharding
from ldis_jax.support.files import only_one
from ldis_jax.training import run as run_module
from ldis_jax.training.checkpoint import saved_steps
from ldis_jax.training.evaluation_sets import Evaluation
from ldis_jax.training.loop import make_loader, train
from ldis_jax.training.programs import mathematical_flops
from ldis_jax.training.run import run_task
from ldis_jax.training.step import StepMetrics, init_state, make_train_step
from ldis_jax.weights import load_model, model_folder
from tests.helpers import micro_config, run_of


@pytest.fixture(scope="module", autouse=True)
def standard_promotion():
    """Optax raises its decay rates to an integer count; the networks are tested under strict promotion elsewhere."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def read_lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(micro_folder, tmp_path_factory):
    """(work folder, report) of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("run")
    config = micro_config(micro_folder)
    config.profile = "3:4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldis_jax.training.loop.peak_flops", lambda kind: 1e12)
        return workdir, train(config, workdir)


def test_train_leaves_everything_a_user_expects(finished, micro_folder):
    workdir, report = finished
    assert report == json.loads((workdir / "report.json").read_text())
    assert {"miou", "fb_iou", "baselines", "prompt_swap", "steps", "seconds", "episodes_hash"} <= report.keys()
    assert report["baselines"].keys() == {"copy_prompt", "all_foreground"}
    assert report["baselines"]["copy_prompt"].keys() == {"miou", "fb_iou", "other_sets"}
    assert report["steps"] == 8 and 0 <= report["miou"] <= 100
    for name in ("config.json", "report.md", "curves.png", "pictures/000004.png", "pictures/000008.png"):
        assert (workdir / name).is_file(), name
    assert list((workdir / "tensorboard").iterdir())
    lines = read_lines(workdir)
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert [line["step"] for line in lines if "unseen/miou" in line] == [4, 8]
    assert [line["train/bad_files"] for line in lines if "train/loss" in line] == [0, 0, 0, 0]
    last = [line for line in lines if "train/loss" in line][-1]
    assert (
        last["train/steps_per_second"] > 0 and last["train/episodes_per_second"] == 8 * last["train/steps_per_second"]
    )
    flops, alone = (
        mathematical_flops(run_of(micro_config(micro_folder), mesh), "train", 8) for mesh in (None, one_device())
    )
    assert 8 * flops == pytest.approx(alone)
    assert last["train/mfu"] == pytest.approx(flops * last["train/steps_per_second"] / 1e12)
    assert 0 <= last["train/data_wait"] <= 1 and 0 < last["train/goodput"] < 1
    assert list((workdir / "profile").rglob("*.xplane.pb"))


def test_train_neither_changes_nor_stores_the_frozen_networks(finished, micro_folder):
    workdir, _ = finished
    before, after = load_model(micro_folder).model, load_model(workdir / "model").model
    _, unet_before, frozen_before = flatten(before)
    _, unet_after, frozen_after = flatten(after)
    for name, value in frozen_before.items():
        np.testing.assert_array_equal(value, frozen_after[name], err_msg=name)
    assert all(np.any(np.asarray(unet_before[n]) != np.asarray(unet_after[n])) for n in unet_before if "kernel" in n)
    stored = (workdir / "checkpoints" / "8" / "state" / "_METADATA").read_text()
    assert "unet/conv_in/kernel" in stored and "vae/" not in stored and "prompt_encoder/" not in stored
    LDISPipeline.from_pretrained(workdir / "model")


def test_train_resumes_bit_for_bit(finished, micro_folder, tmp_path):
    whole, _ = finished
    config = micro_config(micro_folder)
    config.checkpoint_every = 3

    class Stop(Exception):
        pass

    # Stops in step 5, after the checkpoint of step 3 and the log line of step 4.
    import ldis_jax.training.loop as module

    original = module.prefetch

    def interrupted(loader, mesh):
        for i, batch in enumerate(original(loader, mesh)):
            if i == 4:
                raise Stop
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "prefetch", interrupted)
        with pytest.raises(Stop):
            train(config, tmp_path)
    assert not (tmp_path / "report.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(module, "init_state")  # a fresh state beside the restored one would take twice the memory
        train(config, tmp_path)

    (_, expected, _), (_, resumed, _) = (flatten(load_model(w / "model").model) for w in (whole, tmp_path))
    for name, value in expected.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    losses = [{x["step"]: x["train/loss"] for x in read_lines(w) if "train/loss" in x} for w in (whole, tmp_path)]
    assert losses[0][8] == losses[1][8] and losses[0][2] == losses[1][2]
    steps = [x["step"] for x in read_lines(tmp_path)]
    assert steps == sorted(steps)


def test_train_allows_one_run_in_a_work_folder(micro_folder, tmp_path):
    with only_one(tmp_path, LDISError("held")), pytest.raises(LDISError, match="another run works in it") as caught:
        train(micro_config(micro_folder), tmp_path)
    assert caught.value.status == 1 and not (tmp_path / "checkpoints").exists()
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(LDISError, match=r"cannot be written \(Is a directory\); choose another place"):
        train(micro_config(micro_folder), tmp_path)


def test_train_does_not_overwrite_results_without_checkpoints(micro_folder, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(LDISError, match="has results, but no checkpoints to go on from"):
        train(micro_config(micro_folder), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_train_runs_a_finished_run_again_without_training(finished, micro_folder, monkeypatch):
    """And a start reads its task once and builds its optimizer once."""
    workdir, report = finished
    lines = read_lines(workdir)
    calls = []
    for module, name in ((run_module, "task_from_dict"), (model_folder, "task_from_dict"), (optax, "adamw")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name, **kw: calls.append(name) or real(*a, **kw))
    again = train(micro_config(micro_folder), workdir)
    assert sorted(calls) == ["adamw", "task_from_dict"]
    assert {**again, "seconds": 0} == {**report, "seconds": 0}
    assert read_lines(workdir) == lines


def test_train_stops_at_sigterm_in_an_evaluation_and_evaluates_next_time(finished, micro_folder, tmp_path, monkeypatch):
    evaluate, handler = Evaluation.run, signal.getsignal(signal.SIGTERM)

    def interrupted(self, predict, step, confidence):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(self, predict, step, confidence)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "run", interrupted)
        assert train(micro_config(micro_folder), tmp_path) is None
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4] and not (tmp_path / "report.json").exists()
    assert signal.getsignal(signal.SIGTERM) == handler
    assert train(micro_config(micro_folder), tmp_path)["miou"] == finished[1]["miou"]
    evaluations = [[x for x in read_lines(w) if "unseen/miou" in x] for w in (finished[0], tmp_path)]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 2


@pytest.mark.parametrize(
    ("task", "meshes"),
    [("ldis1", [(1, 1), (2, 4)]), ("ldis1", [(1, 1), (8, 1)]), ("ldisn", [(1, 1), (1, 8)])],
)
def test_make_train_step_gives_the_same_losses_on_every_mesh(task, meshes, micro_folder, micro_folder_ldisn):
    config = micro_config(micro_folder if task == "ldis1" else micro_folder_ldisn, task)
    losses = {}
    for data, fsdp in meshes:
        mesh = sharding.make_mesh(data, fsdp, devices=jax.devices()[: data * fsdp])
        run = run_of(config, mesh)
        graphdef, params, frozen, _ = run.start()
        state, placed = init_state(params, run.optimizer, mesh)
        step = make_train_step(run.task, graphdef, run.optimizer, config.seed, mesh, placed)
        whole = sharding.replicated(mesh)
        frozen, empty = jax.device_put(frozen, whole), jax.device_put(StepMetrics.empty(), whole)
        if fsdp > 1:
            kernel = state.params["unet/mid_block/resnets/0/conv1/kernel"]
            assert kernel.addressable_shards[0].data.size * fsdp == kernel.size
        losses[data, fsdp] = []
        with make_loader(run) as loader:
            for _ in range(3):
                batch = next(loader)
                state, metrics = step(state, empty, frozen, sharding.to_devices(batch, mesh))
                losses[data, fsdp].append(float(metrics.compute()["loss"]))
        assert step._cache_size() == 1
    assert len(set(losses[1, 1])) == 3
    for values in losses.values():
        np.testing.assert_allclose(values, losses[1, 1], rtol=2e-5)


def test_train_refuses_another_models_checkpoint(finished, micro_folder):
    config = micro_config(micro_folder)
    config.task.mask_alpha = 0.3
    with pytest.raises(LDISError, match=r"mask_alpha: 0\.0 -> 0\.3"):
        train(config, finished[0])


def test_train_names_step_and_episodes_of_a_loss_that_is_not_finite(micro_folder, tmp_path, monkeypatch):
    make = TrainEpisodes.__getitem__

    def poisoned(self, index):
        arrays = make(self, index)
        return arrays | {"query_image": arrays["query_image"] * np.float32(np.nan if index == 37 else 1)}

    monkeypatch.setattr(TrainEpisodes, "__getitem__", poisoned)
    config = micro_config(micro_folder)
    config.log_every, config.eval_every, config.checkpoint_every = 8, 8, 4  # the log comes late
    for _ in range(2):
        with pytest.raises(LDISError, match=r"step 5: the loss .* not finite, on episodes 32 to 39 of seed 123\.") as e:
            train(config, tmp_path)
        assert "\n" not in str(e.value)
        assert saved_steps(tmp_path / "checkpoints") == [4]
    assert not (tmp_path / "model").exists()


def test_train_saves_nothing_where_a_learning_rate_breaks_the_parameters(micro_folder, tmp_path):
    config = micro_config(micro_folder)
    config.optim.learning_rate = 1e30
    config.optim.warmup_steps = 0
    with pytest.raises(LDISError, match="not finite"):
        train(config, tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 12, "multiple of 8"),
        ("batch_size", 0, "config.batch_size=0: must be an integer of at least 1"),
        ("batch_size", 1_000_000, "at least 1 and at most 65536"),
        ("eval.batch_size", 10**20, "at least 1 and at most 65536"),
        ("train_steps", 10**20, "at most 2147483646"),
        ("eval.sets.unseen.episodes", 10**20, "is not a usable int"),
        ("eval.prompt_swap", 10**9, "at most 65536"),
        ("data.num_workers", 10**6, "at least 0 and at most 1024"),
        ("step.accumulate", 0, "at least 1"),
        ("log_every", 0, "at least 1"),
        ("eval_every", 0, "at least 1"),
        ("checkpoint_every", 0, "at least 1"),
        ("keep_checkpoints", 0, "at least 1"),
        ("eval.batch_size", 0, "at least 1"),
        ("num_shots", 0, "at least 1"),
        ("train_steps", 0, "at least 1"),
        ("eval.prompt_swap", -3, "at least 0"),
        ("eval.pictures", -1, "at least 0"),
        ("eval.sets.unseen.num_shots", 0, "at least 1"),
        ("seed", 2**32, "config.seed=4294967296: must be from 0 to 4294967295"),
        ("watchdog_minutes", -1.0, "must be from 0 to 1000000"),
        ("watchdog_minutes", float("inf"), "config.watchdog_minutes=inf: must be a finite number"),
        ("optim.learning_rate", float("nan"), "must be a finite number"),
        ("optim.learning_rate", -1.0, "must be not negative"),
        ("optim.warmup_steps", -5, "at least 0"),
        ("optim.b2", 2.0, "must be from 0 on and below 1"),
        ("optim.grad_clip", 0.0, "config.optim.grad_clip=0.0: must be positive"),
        ("remat", "block", "config.remat='block': must be one of none, blocks, dots"),
        ("dtype", "float16", "must be one of auto, float32, bfloat16"),
        ("optim.schedule", "linear", "config.optim.schedule='linear': must be one of constant, cosine"),
        ("step.ema_decay", 1.0, "config.step.ema_decay=1.0: must be from 0 on and below 1"),
        ("step.grad_dtype", "float16", "config.step.grad_dtype='float16': must be one of float32, bfloat16"),
        ("dtype", "float16", "dtype"),
        ("profile", "5:x", "profile"),
        ("init.folder", "nowhere", "no such folder"),
        ("mesh.data", 3, "does not make 8 devices"),
        ("task.task", "ldis2", "must be one of"),
        ("eval.main_set", "seen", "main_set"),
        ("data.sources.scenes.kind", "coco", "kind"),
        ("data.sources.scenes.split", "val", "split"),
    ],
)
def test_train_refuses_a_bad_config_in_one_clear_line(micro_folder, tmp_path, key, value, message):
    config = micro_config(micro_folder)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(LDISError, match=message) as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_train_exports_the_frozen_networks_as_they_came(micro_folder, tmp_path):
    config = micro_config(micro_folder)
    config.dtype = "bfloat16"  # frozen networks are bfloat16 on the device
    config.train_steps, config.eval.prompt_swap, config.eval.pictures = 2, 0, 0
    train(config, tmp_path / "run")
    for network in ("vae", "prompt_encoder"):
        (source,) = (micro_folder / network).glob("*.safetensors")
        assert (tmp_path / "run" / "model" / network / source.name).read_bytes() == source.read_bytes()


def test_run_task_takes_the_init_folders_noise_schedule(micro_folder_ldisn, tmp_path):
    init = shutil.copytree(micro_folder_ldisn, tmp_path / "init")
    path = init / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    config = micro_config(init, "ldisn")
    assert run_task(config).schedule.prediction_type == "v_prediction"
    config.init.folder = str(micro_folder_ldisn)
    assert run_task(config).schedule.prediction_type == "epsilon"
