"""What a run's programs are, from its config alone."""

import pytest

from ldis_jax import LDISError
from ldis_jax.config import small_config
from ldis_jax.programs import run_task


def test_what_a_drawn_unet_regresses():
    config = small_config("ldisn")
    assert run_task(config).schedule.prediction_type == "epsilon", "the folder's"
    config.init.prediction_type = "v_prediction"
    changed = run_task(config).schedule
    assert (
        changed.prediction_type == "v_prediction"
        and changed.beta_end == run_task(small_config("ldisn")).schedule.beta_end
    )
    config.init.prediction_type = "sample"
    with pytest.raises(LDISError, match=r"config\.init: prediction_type='sample' is unsupported"):
        run_task(config)


def test_a_trained_unet_keeps_its_own():
    config = small_config("ldisn")
    config.init.unet = {}
    config.init.prediction_type = "v_prediction"
    with pytest.raises(LDISError, match="was trained with its own"):
        run_task(config)
