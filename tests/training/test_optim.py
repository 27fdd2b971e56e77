import pytest
from ml_collections import ConfigDict

from ldis_jax.training.optim import learning_rate_schedule


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 4, {0: 0.0, 2: 0.5, 4: 1.0, 50: 1.0}),
        ("constant", 0, {0: 1.0, 50: 1.0}),
        ("cosine", 4, {0: 0.0, 2: 0.5, 4: 1.0, 100: 0.01}),
        ("cosine", 0, {0: 1.0, 50: 0.505, 100: 0.01}),
    ],
)
def test_learning_rate_schedule_warms_up_and_decays(schedule, warmup, expected):
    config = ConfigDict({"learning_rate": 1.0, "warmup_steps": warmup, "schedule": schedule})
    rate = learning_rate_schedule(config, 100)
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected, abs=1e-6)
