"""``config.profile``: which steps are traced."""

import jax
import jax.numpy as jnp
import pytest

from ldis_jax import LDISError
from ldis_jax.training.profiling import Profiler


def traced(steps, folder, first=1):
    """The steps of a run from ``first`` to 6 that are in the trace."""
    double = jax.jit(lambda x: 2 * x)
    with Profiler(steps, folder) as profiler:
        for step in range(first, 7):
            with profiler.before(step):
                result = double(jnp.ones(3))
            profiler.after(step, result)
    paths = list(folder.rglob("*.xplane.pb"))
    if not paths:
        return []
    planes = jax.profiler.ProfileData.from_file(str(paths[0])).planes
    events = [event for plane in planes for line in plane.lines for event in line.events if event.name == "train"]
    return [dict(event.stats)["step_num"] for event in events]


@pytest.mark.parametrize(
    ("steps", "first", "expected"),
    [("", 1, []), ("2:3", 1, [2, 3]), ("2", 1, [2, 3, 4]), ("5:9", 1, [5, 6]), ("2:4", 4, [4]), ("1:2", 3, [])],
)
def test_profiler_traces_the_chosen_steps(tmp_path, steps, first, expected):
    assert traced(steps, tmp_path, first) == expected


@pytest.mark.parametrize("steps", ["a", "3:", ":3", "-1", "1:2:3", "5:2", "0"])
def test_profiler_refuses_bad_steps(tmp_path, steps):
    with pytest.raises(LDISError, match=r"config\.profile"):
        Profiler(steps, tmp_path)
