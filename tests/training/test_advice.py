"""What a report advises follows from what was measured."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from ldis_jax.training.advice import advice
from tests.data.test_folder_check import image_folder


@pytest.fixture
def run(tmp_path):
    """Of a folder whose objects are strips of a tenth of the long side."""
    mask = np.zeros((100, 200), np.uint8)
    mask[40:60, 10:190] = 1
    root = image_folder(tmp_path, {f"p{i}": mask for i in range(4)})
    config = {"data": {"folder": str(root), "classes": ""}, "eval": {"main_set": "held_out"}, "train_steps": 100}
    return SimpleNamespace(config=ConfigDict(config), task=SimpleNamespace(image_size=160, tile=1.0))


def told(run, fitted, held_out, figures=None, best=20):
    results = {"trained_on/miou": fitted, "held_out/miou": held_out}
    return advice(run, results, figures or {10: 50.0, 20: 60.0, 30: 55.0}, best)


def test_advice_for_a_gap_is_more_masks(run):
    (line,) = told(run, 90.0, 60.0)
    assert line.startswith("More masks: images that were trained on reach 90.0, others 60.0")


def test_advice_for_a_last_evaluation_that_is_the_best_is_more_steps(run):
    (line,) = told(run, 90.0, 85.0, {10: 50.0, 20: 60.0})
    assert "the last evaluation was the best (60.0)" in line and "--config.train_steps=200" in line
    assert "longer" not in told(run, 90.0, 85.0, {20: 60.0})[0], "one evaluation alone says nothing"


def test_advice_for_narrow_objects_is_closer_images(run):
    run.task.image_size = 64
    (line,) = told(run, 60.0, 55.0)
    assert "about 6 pixels wide for the network" in line and "--config.data.tile=0.5" in line
    run.task.tile = 0.25  # they are four times as wide then
    assert "stronger start" in told(run, 60.0, 55.0)[0]


def test_advice_for_a_model_that_has_not_learned_its_images_is_a_start(run):
    (line,) = told(run, 40.0, 38.0)
    assert line.startswith("A stronger start") and "40.0" in line


def test_advice_says_when_nothing_stands_out(run):
    assert told(run, 90.0, 88.0) == ["Nothing that was measured stands out; images that were trained on reach 90.0."]


def test_advice_is_empty_for_other_runs(run):
    assert advice(run, {"held_out/miou": 5.0}, {}, 20) == []
    run.config.data.folder = ""
    assert told(run, 90.0, 60.0) == []
