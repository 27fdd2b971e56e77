"""Training with objects that are not there, and the confidence that its end fits."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import pytest

from ldis_jax import LDISPipeline
from ldis_jax.errors import LDISError
from ldis_jax.recipes.data import eval_set, procedural_source
from ldis_jax.tasks.confidence import NOT_CALIBRATED
from ldis_jax.training.evaluation_sets import Evaluation
from ldis_jax.training.loop import train
from ldis_jax.training.run import run_task
from ldis_jax.weights.model_folder import TASK_FILE, read_task
from tests.compile_flags import QUICK
from tests.helpers import ROOT, micro_config, run_of


@pytest.fixture(scope="module", autouse=True)
def standard_promotion():
    """As optax needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def config_of(folder):
    config = micro_config(folder)
    config.data.absent = 0.5
    config.eval.sets.absent = eval_set(procedural_source("unseen"), episodes=6, seed=2, absent=0.5)
    config.eval.sets.calibrating = eval_set(procedural_source("train"), episodes=12, seed=1, absent=0.5)
    config.eval.main_set, config.eval.calibrate_by = "unseen", "calibrating"
    return config


def test_train_fits_a_confidence_at_its_end(micro_folder, tmp_path):
    report = train(config_of(micro_folder), tmp_path / "run")
    others = report["other_sets"]
    assert {"absent/false_alarms", "absent/auroc", "absent/ece", "absent/miou"} <= others.keys()
    assert not any(key.startswith("calibrating/") for key in others)
    task = read_task(tmp_path / "run/model")
    assert task.confidence.episodes == 12 and task.confidence.is_calibrated
    assert LDISPipeline.from_pretrained(tmp_path / "run/model").task.confidence == task.confidence
    card = (tmp_path / "run/model/README.md").read_text()
    assert "12 held-out episodes" in card and "sharpness" not in card
    for line in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines()):
        assert not any(key.startswith("calibrating") for key in line)

    # Another training changes the weights, and so begins without it.
    again = config_of(tmp_path / "run/model")
    assert run_task(again).confidence == NOT_CALIBRATED
    assert run_of(again).fingerprint({})["absent"] == 0.5
    again.task = {}
    assert run_task(again).confidence == NOT_CALIBRATED


def test_calibrate_fits_a_folder_in_place(micro_folder, tmp_path):
    folder, script = shutil.copytree(micro_folder, tmp_path / "model"), tmp_path / "config.py"
    make = "from tests.training.test_calibration import config_of\n\n\ndef get_config():\n    return config_of"
    script.write_text(f"{make}({str(folder)!r})\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK}

    def calibrate(*flags):
        command = [sys.executable, str(ROOT / "tools" / "calibrate.py"), f"--config={script}", *flags]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = calibrate(
        "--config.eval.calibrate_by=calibrating,unseen", "--config.eval.main_set=absent", f"--model={folder}"
    )
    assert done.returncode == 0 and "18 episodes" in done.stdout, done.stderr
    task, before = read_task(folder), read_task(micro_folder)
    assert task.confidence.episodes == 18 and dataclasses.replace(task, confidence=before.confidence) == before
    for path in micro_folder.rglob("*.*"):
        if path.is_file() and path.name != TASK_FILE:
            assert (folder / path.relative_to(micro_folder)).read_bytes() == path.read_bytes()
    refused = calibrate()
    assert (
        refused.returncode == 2
        and refused.stderr == "error: give --model and a config whose eval.calibrate_by names sets\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.eval, "calibrate_by", "other"), r"config\.eval\.calibrate_by: 'other' must be one of"),
        (
            lambda c: setattr(c.eval, "calibrate_by", "unseen"),
            r"config\.eval\.main_set='unseen': must not be the set of",
        ),
        (
            lambda c: setattr(c.eval.sets.absent, "absent", 1.5),
            r"config\.eval\.sets\.absent: absent=1\.5: must be from 0",
        ),
    ],
)
def test_evaluation_refuses_sets_that_do_not_fit(micro_folder, tmp_path, change, message):
    config = config_of(micro_folder)
    change(config)
    with pytest.raises(LDISError, match=message):
        Evaluation(config, run_task(config), tmp_path)
