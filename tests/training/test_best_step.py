"""Early stopping: the best step is kept, however the run got there."""

import json

import jax
import numpy as np
import pytest

from ldis_jax import LDISError
from ldis_jax.models.params import flatten
from ldis_jax.recipes.data import eval_set, procedural_source
from ldis_jax.runtime.preemption import PreemptedError
from ldis_jax.training import loop
from ldis_jax.training.best_step import BestStep
from ldis_jax.training.checkpoint import saved_steps
from ldis_jax.training.evaluation_sets import Evaluation
from ldis_jax.weights import load_model
from tests.helpers import micro_config


@pytest.fixture(scope="module", autouse=True)
def standard_promotion():
    """Optax raises its decay rates to an integer count; the networks are tested under strict promotion elsewhere."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_best_step_is_the_first_of_the_greatest_and_ends_after_as_many_worse_ones():
    chosen = BestStep(patience=2)
    assert chosen.step is None and not chosen.is_over
    assert [chosen.add(step, figure) for step, figure in ((2, 30.0), (4, 50.0), (6, 50.0))] == [True, True, False]
    assert chosen.step == 4 and not chosen.is_over
    chosen.add(8, 49.0)
    assert chosen.is_over
    again = BestStep(patience=2)
    again.set_state(json.loads(json.dumps(chosen.state())))
    assert (again.figures, again.step, again.is_over) == (chosen.figures, 4, True)
    assert not BestStep(0).is_over
    again.set_state({})  # of a run from before there was a choice
    assert again.step is None


def config_of(folder, patience=2):
    config = micro_config(folder)
    config.train_steps, config.keep_checkpoints = 12, 1
    config.eval.sets.unseen.episodes = 2
    config.eval_every = config.checkpoint_every = 2
    config.eval.sets.choosing = eval_set(procedural_source("train"), episodes=2)
    config.eval.main_set, config.eval.choose_by, config.eval.patience = "unseen", "choosing", patience
    config.eval.prompt_swap = config.eval.pictures = 0
    return config


def run(config, workdir, monkeypatch, figures):
    """A run whose evaluations that choose have these figures, by step."""

    def choose(self, predict, step):
        return {"choosing/miou": figures[step], "choosing/fb_iou": 0.0}

    real = loop.Trainer

    def made(*args):
        nonlocal trainer
        trainer = real(*args)
        return trainer

    trainer = None
    monkeypatch.setattr(Evaluation, "choose", choose)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Trainer", made)
        return loop.train(config, workdir), trainer


def params_of(folder):
    return flatten(load_model(folder).model)[1]


FIGURES = {2: 10.0, 4: 40.0, 6: 30.0, 8: 20.0, 10: 90.0, 12: 90.0}


@pytest.fixture(scope="module")
def stopped(micro_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        workdir = tmp_path_factory.mktemp("stopped")
        report, trainer = run(config_of(micro_folder), workdir, patch, FIGURES)
        return workdir, report, trainer.done


def test_train_ends_early_and_evaluates_and_exports_the_best_step(stopped, micro_folder, tmp_path, monkeypatch):
    workdir, report, done = stopped
    assert done == 8 and report["steps"] == 4
    assert saved_steps(workdir / "checkpoints") == [4, 8]  # the last one, and the best
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "choosing/miou" in line] == [2, 4, 6, 8]
    assert [line["step"] for line in lines if "unseen/miou" in line] == [8]  # looked at once
    short = config_of(micro_folder, patience=0)
    short.train_steps = 4
    short.optim.schedule = "constant"
    run(short, tmp_path, monkeypatch, FIGURES)
    expected, found = params_of(tmp_path / "model"), params_of(workdir / "model")
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


def test_train_keeps_the_last_step_where_it_is_the_best(micro_folder, tmp_path, monkeypatch):
    report, trainer = run(config_of(micro_folder, patience=0), tmp_path, monkeypatch, FIGURES | {12: 95.0})
    assert report["steps"] == trainer.done == 12


@pytest.mark.parametrize("cut", [3, 6])
def test_train_ends_the_same_after_it_was_cut_off(stopped, micro_folder, tmp_path, monkeypatch, cut):
    class Stop(Exception):
        pass

    real = loop.prefetch

    def interrupted(loader, mesh):
        for i, batch in enumerate(real(loader, mesh), 1):
            if i > cut:
                raise Stop
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "prefetch", interrupted)
        with pytest.raises(Stop):
            run(config_of(micro_folder), tmp_path, patch, FIGURES)
    report, trainer = run(config_of(micro_folder), tmp_path, monkeypatch, FIGURES)
    assert trainer.done == 8 and report["steps"] == 4 and report["miou"] == stopped[1]["miou"]
    again, _ = run(config_of(micro_folder), tmp_path, monkeypatch, FIGURES)  # of a run that is done
    assert again["miou"] == report["miou"] and again["steps"] == 4
    expected, found = params_of(stopped[0] / "model"), params_of(tmp_path / "model")
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


def test_train_saves_nothing_again_after_sigterm_in_the_last_evaluation(stopped, micro_folder, tmp_path, monkeypatch):
    def preempted(self, predict, step, confidence):
        raise PreemptedError

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "run", preempted)
        report, _ = run(config_of(micro_folder), tmp_path, patch, FIGURES)
    assert report is None and saved_steps(tmp_path / "checkpoints") == [4, 8]
    report, trainer = run(config_of(micro_folder), tmp_path, monkeypatch, FIGURES)
    assert trainer.done == 8 and report["miou"] == stopped[1]["miou"]


def test_train_refuses_an_unknown_set_to_choose_by(micro_folder, tmp_path):
    config = config_of(micro_folder)
    config.eval.choose_by = "nobody"
    with pytest.raises(LDISError, match=r"config\.eval\.choose_by='nobody': must be one of"):
        loop.train(config, tmp_path)
