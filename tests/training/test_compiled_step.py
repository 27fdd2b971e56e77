"""Compiled training steps in files: loaded where they are this run's program, compiled again where they are not."""

import json
import logging
import shutil

import jax
import pytest

from ldis_jax import LDISError
from ldis_jax.training import compiled_step
from ldis_jax.training.compiled_step import ready_step
from ldis_jax.training.loop import train
from ldis_jax.training.metric_writer import read_metrics
from tests.helpers import micro_config, run_of


@pytest.fixture(scope="module", autouse=True)
def standard_promotion():
    """As in tests/training/test_loop.py: optax raises its decay rates to an integer count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def saved(micro_folder, tmp_path_factory):
    """(config, file that its first run left, what that run reported)."""
    folder = tmp_path_factory.mktemp("executable")
    config = micro_config(micro_folder)
    config.mesh.data, config.mesh.fsdp = 2, 4
    ready(config)  # JAX's cache then holds the program, and XLA:CPU cannot write out what came from there
    config.executable = str(folder / "step.bin")
    return config, folder / "step.bin", train(config, folder / "first")


def ready(config):
    return ready_step(run_of(config))


def not_compiled(monkeypatch):
    """From here on a compilation is an error."""
    monkeypatch.setattr(compiled_step.Program, "trace", lambda self: pytest.fail("traced"))


def test_train_loads_a_compiled_step_and_ends_the_same(saved, tmp_path, monkeypatch, caplog):
    config, _, report = saved
    not_compiled(monkeypatch)
    monkeypatch.setattr("ldis_jax.training.loop.peak_flops", lambda kind: 1e12)  # as where FLOPs are asked for
    with caplog.at_level(logging.INFO):
        again = train(config, tmp_path / "second")
    assert "training step loaded from" in caplog.text
    assert {**again, "seconds": 0} == {**report, "seconds": 0}
    lines = read_metrics(tmp_path / "second" / "metrics.jsonl")
    assert any(line.get("train/mfu", 0) > 0 for line in lines)


def test_ready_step_is_loaded_though_keys_of_the_host_differ(saved, monkeypatch):
    config = saved[0].copy_and_resolve_references()
    config.log_every, config.eval_every, config.data.num_workers = 3, 7, 1
    not_compiled(monkeypatch)
    assert isinstance(ready(config).run, jax.stages.Compiled)


def why_not(config, path):
    """Why the file is not this config's program."""
    run = run_of(config)
    program = compiled_step.train_program(run, config.batch_size)
    found = compiled_step.read_executable(path, compiled_step.program_facts(run), program, run.mesh)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 5}, "compiled for another config"),
        ({"optim.learning_rate": 0.1}, "compiled for another config"),
        ({"mesh.data": 8, "mesh.fsdp": 1}, "compiled for another config, mesh"),
        ({"task.image_size": 32}, "compiled for another config, task"),
    ],
)
def test_read_executable_refuses_another_program(saved, change, reason):
    config, path, _ = saved
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(change)
    assert why_not(config, path) == reason


def test_read_executable_refuses_another_noise_schedule(micro_folder_ldisn, tmp_path, caplog):
    config = micro_config(shutil.copytree(micro_folder_ldisn, tmp_path / "init"), "ldisn")
    config.executable = str(tmp_path / "step.bin")
    ready(config)
    path = tmp_path / "init" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    assert why_not(config, tmp_path / "step.bin") == "compiled for another noise schedule"


def test_ready_step_refuses_a_file_it_cannot_write_before_it_compiles(saved, tmp_path, monkeypatch):
    config = saved[0].copy_and_resolve_references()
    config.executable = str(tmp_path)
    not_compiled(monkeypatch)
    with pytest.raises(LDISError, match="cannot be written"):
        ready(config)


def test_ready_step_compiles_again_and_replaces_a_damaged_file(saved, tmp_path, monkeypatch, caplog):
    config = saved[0].copy_and_resolve_references()
    config.executable = str(tmp_path / "step.bin")
    (tmp_path / "step.bin").write_bytes(saved[1].read_bytes()[:-1000])
    ready(config)
    assert f"{tmp_path / 'step.bin'}: damaged; compiling again" in caplog.text
    not_compiled(monkeypatch)
    ready(config)


@pytest.mark.parametrize("package", ["jax", "optax", "source code", "compiler's flags", "processor"])
def test_read_executable_depends_on_versions_code_and_machine(saved, package):
    config, path, _ = saved
    run = run_of(config)
    facts = compiled_step.program_facts(run)
    assert package in facts
    program = compiled_step.train_program(run, config.batch_size)
    assert isinstance(compiled_step.read_executable(path, facts, program, run.mesh), compiled_step.ReadyStep)
    other = compiled_step.read_executable(path, {**facts, package: "other"}, program, run.mesh)
    assert other == f"compiled for another {package}"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1000], "damaged"),
        (lambda data: data[:-1000] + bytes(1000), "damaged"),
    ],
)
def test_read_executable_refuses_damaged_files(saved, tmp_path, damage, reason):
    (tmp_path / "step.bin").write_bytes(damage(saved[1].read_bytes()))
    assert why_not(saved[0], tmp_path / "step.bin") == reason


@pytest.mark.parametrize("start", [b"mine\n", b"", b"\x80\x04].", b"[1]\n"])
def test_ready_step_keeps_a_file_of_something_else(saved, tmp_path, start):
    config = saved[0].copy_and_resolve_references()
    config.executable = str(tmp_path / "notes.txt")
    content = start + (saved[1].read_bytes() if start else b"")
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(LDISError, match=r"notes.txt: exists but is not a compiled step; choose another file"):
        ready(config)
    assert (tmp_path / "notes.txt").read_bytes() == content


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_ready_step_does_not_run_a_program_that_others_may_change(saved, tmp_path, mode):
    config, path, _ = saved
    assert not path.stat().st_mode & 0o022
    config = config.copy_and_resolve_references()
    config.executable = str(tmp_path / "step.bin")
    (tmp_path / "step.bin").write_bytes(path.read_bytes())
    (tmp_path / "step.bin").chmod(mode)
    with pytest.raises(LDISError, match=r"step.bin: is a program that others may change; .* chmod go-w"):
        ready(config)
