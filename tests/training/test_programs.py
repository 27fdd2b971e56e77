"""What a run's programs are, from its config alone."""

import contextlib

import jax
import pytest

from ldis_jax import LDISError
from ldis_jax.recipes.small import small_config
from ldis_jax.training.programs import mathematical_flops
from ldis_jax.training.run import run_task
from tests.helpers import micro_config, run_of


def test_run_task_lets_a_config_choose_what_a_drawn_unet_regresses():
    config = small_config("ldisn")
    assert run_task(config).schedule.prediction_type == "epsilon", "the folder's"
    config.init.prediction_type = "v_prediction"
    changed = run_task(config).schedule
    assert (
        changed.prediction_type == "v_prediction"
        and changed.beta_end == run_task(small_config("ldisn")).schedule.beta_end
    )
    config.init.prediction_type = "sample"
    with pytest.raises(LDISError, match=r"config\.init: not a noise schedule .*prediction_type='sample'"):
        run_task(config)


def test_run_task_keeps_what_a_trained_unet_regresses():
    config = small_config("ldisn")
    config.init.unet = {}
    config.init.prediction_type = "v_prediction"
    with pytest.raises(LDISError, match="was trained with its own"):
        run_task(config)


@pytest.mark.parametrize("loss_space", ["latent", "pixel"])
def test_mathematical_flops_counts_once_what_is_computed_again(micro_folder, monkeypatch, loss_space):
    config = micro_config(micro_folder)
    config.task.loss_space = loss_space

    def flops(remat):
        config.remat = remat
        with jax.numpy_dtype_promotion("standard"):  # of optax
            return mathematical_flops(run_of(config), "train", 8)

    plain = flops("none")
    assert flops("blocks") == plain
    # The pixel-space loss computes the decoder again whatever the config says.
    monkeypatch.setattr("ldis_jax.training.programs.nothing_computed_again", contextlib.nullcontext)
    assert (flops("none") > plain) == (loss_space == "pixel")
