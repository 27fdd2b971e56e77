"""A checkpoint of a training run as a model folder: any step, on any machine."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ldis_jax.commands.convert_weights import from_checkpoint
from ldis_jax.errors import LDISError
from ldis_jax.training.checkpoint import read_params
from ldis_jax.training.loop import train
from ldis_jax.weights import load_model
from tests.compile_flags import QUICK
from tests.forked import command
from tests.helpers import micro_config
from tests.reference.weights import arrays

NETWORKS = ("unet", "vae", "prompt_encoder")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, micro_folder_ldisn):
    """A run of LDIS-n whose parameters, and their average, were sharded over four of eight devices."""
    root = tmp_path_factory.mktemp("trained")
    init = Path(shutil.copytree(micro_folder_ldisn, root / "init"))
    config = micro_config(init, "ldisn")
    config.mesh.data, config.mesh.fsdp = 2, 4
    config.step.ema_decay = 0.5
    with jax.numpy_dtype_promotion("standard"):  # as in test_train
        train(config, root / "run")
    return root


def export(trained, out, *arguments):
    """The command on a machine with one device."""
    env = os.environ | {"XLA_FLAGS": QUICK}
    return command("ldis_jax.convert", f"--checkpoint={trained / 'run'}", f"--out={out}", *arguments, env=env)


def test_convert_of_the_last_step_is_what_training_exported(trained, tmp_path):
    result = export(trained, tmp_path / "model")
    assert result.returncode == 0, result.stderr
    assert "ldisn model folder of step 8" in result.stdout
    ours, truth = load_model(tmp_path / "model"), load_model(trained / "run" / "model")
    assert ours.task == truth.task and ours.model.config == truth.model.config
    for network in NETWORKS:
        expected = arrays(getattr(truth.model, network))
        for name, array in arrays(getattr(ours.model, network)).items():
            np.testing.assert_array_equal(array, expected[name])
    assert ours.card == truth.card
    assert "| steps | 8 |" in ours.card and "| unseen/miou |" in ours.card and "| data | scenes |" in ours.card


def test_convert_takes_an_earlier_step_and_a_moved_init(trained, tmp_path):
    moved = Path(shutil.copytree(trained, tmp_path / "moved"))
    (moved / "init").rename(moved / "elsewhere")
    config = moved / "run" / "config.json"
    config.write_text(config.read_text().replace(str(trained / "init"), str(moved / "init")))
    result = export(moved, tmp_path / "model", "--step=4")
    assert result.returncode == 2
    assert "init: not there, or not what the run was trained with; say where that is with --init" in result.stderr
    result = export(moved, tmp_path / "model", "--step=4", f"--init={moved / 'elsewhere'}")
    assert result.returncode == 0, result.stderr
    saved = read_params(trained / "run" / "checkpoints", 4)
    kernel = arrays(load_model(tmp_path / "model").model.unet)["conv_in.weight"]
    np.testing.assert_array_equal(kernel, saved.params["unet/conv_in/kernel"].transpose(3, 2, 0, 1))
    assert (kernel != arrays(load_model(trained / "run" / "model").model.unet)["conv_in.weight"]).any()


def test_read_params_refuses_steps_that_are_not_there(trained):
    with pytest.raises(LDISError, match="no checkpoint of step 5; there are 4, 8"):
        read_params(trained / "run" / "checkpoints", 5)


def test_read_params_refuses_a_damaged_checkpoint(trained, tmp_path):
    damaged = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    for path in (damaged / "checkpoints" / "8" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(LDISError, match=r"8: unreadable checkpoint .*; choose another step"):
        read_params(damaged / "checkpoints")


def test_convert_refuses_another_init(trained, tmp_path):
    """Same sizes, other values: all bases of Stable Diffusion 1.5 share their configs."""
    other = Path(shutil.copytree(trained / "init", tmp_path / "other"))
    path = other / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: -array for name, array in tensors.items()}, path)
    result = export(trained, tmp_path / "model", f"--init={other}")
    assert result.returncode == 2 and "not what the run was trained with" in result.stderr
    assert not (tmp_path / "model").exists()


def test_convert_copes_with_a_strange_work_folder(trained, tmp_path):
    work = tmp_path / "run"
    shutil.copytree(trained / "run", work)
    for name in ("²", "٩", "0009"):
        (work / "checkpoints" / name).mkdir()
    (work / "checkpoints" / "99").write_text("a file")
    with open(work / "metrics.jsonl", "a") as file:
        file.write('\n[1]\nnull\n{"step": 8, "unseen/odd": NaN, "unseen/text": "x"}\n{"step": 8, "unse')
    assert read_params(work / "checkpoints").step == 8
    result = export(tmp_path, tmp_path / "model")
    assert result.returncode == 0, result.stderr
    assert "odd" not in (tmp_path / "model" / "README.md").read_text()
    (work / "config.json").write_text('{"init": {"folder": null}}')
    result = export(tmp_path, tmp_path / "again")
    assert result.returncode == 2 and "None: not there, or not what the run was trained with" in result.stderr


@pytest.mark.parametrize("content", ["[]", "{}", '{"networks": {"unet": null}}', '{"networks": 5}'])
def test_from_checkpoint_refuses_a_strange_fingerprint(trained, tmp_path, content):
    work = tmp_path / "run"
    shutil.copytree(trained / "run", work)
    (work / "checkpoints" / "8" / "fingerprint" / "metadata").write_text(content)
    monkey = argparse.Namespace(checkpoint=work, step=None, init=trained / "init", out=tmp_path / "m", dtype=None)
    with pytest.raises(LDISError, match="8: fingerprint: cannot be read"):
        from_checkpoint(monkey)
