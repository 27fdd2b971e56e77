"""Every sampler against closed forms and, step by step, against diffusers."""

from __future__ import annotations

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.diffusion import SAMPLERS, NoiseSchedule, sample, step_table

SHAPE = (2, 3, 3, 4)
DRAWS = np.random.default_rng(0)
NOISE = DRAWS.normal(size=SHAPE).astype(np.float32)
STEP_NOISE = DRAWS.normal(size=(30, *SHAPE)).astype(np.float32)


def draw(step: jax.Array) -> jax.Array:
    return jnp.asarray(STEP_NOISE)[step]


def network(z, t, library):
    """Any function of z and t that both libraries can evaluate."""
    return library.sin(2 * z + 0.01 * t) + 0.3 * z


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", [1, 7, 20, 30])
def test_sample_is_diffusers_at_every_step(sampler, prediction_type, spacing, num_steps):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_ddpm

    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing=spacing)
    options = dataclasses.asdict(schedule) | {"clip_sample": False}
    if sampler == "ddpm":
        del options["set_alpha_to_one"]
    if sampler == "dpmpp_2m":
        options = {k: v for k, v in options.items() if k not in ("set_alpha_to_one", "clip_sample")}
    kinds = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler"}
    scheduler = getattr(diffusers, kinds[sampler])(**options)
    scheduler.set_timesteps(num_steps)
    z, theirs = torch.from_numpy(NOISE), []
    for i, t in enumerate(scheduler.timesteps):
        theirs.append((int(t), z.numpy()))
        with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *_, i=i, **__: torch.from_numpy(STEP_NOISE[i])):
            z = scheduler.step(network(z, int(t), torch), t, z).prev_sample

    ours = []

    def denoise(z: jax.Array, t: jax.Array) -> jax.Array:
        ours.append((int(t), np.asarray(z)))
        return network(z, int(t), jnp)

    with jax.disable_jit():  # the scan is then a Python loop
        last = sample(denoise, jnp.asarray(NOISE), draw, schedule, num_steps, sampler)
    assert [t for t, _ in ours] == [t for t, _ in theirs]
    for (t, a), (_, b) in zip([*ours, (-1, np.asarray(last))], [*theirs, (-1, z.numpy())], strict=True):
        assert np.abs(a - b).max() <= 3e-5 * np.abs(b).max(), f"before timestep {t}"


@pytest.mark.parametrize("num_steps", [1, 20])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_sample_finds_the_data_with_a_perfect_network(num_steps, sampler, prediction_type, spacing):
    schedule = NoiseSchedule(prediction_type=prediction_type, set_alpha_to_one=True, timestep_spacing=spacing)
    data = jnp.asarray(np.random.default_rng(1).normal(size=SHAPE).astype(np.float32))

    def denoise(z: jax.Array, t: jax.Array) -> jax.Array:
        signal, sigma = schedule.coefficients(t)
        eps = (z - signal * data) / sigma
        return eps if prediction_type == "epsilon" else signal * eps - sigma * data

    found = sample(denoise, jnp.asarray(NOISE), draw, schedule, num_steps, sampler)
    np.testing.assert_allclose(found, data, atol=2e-4)


def test_sample_by_ddim_ends_at_the_first_noise_level_unless_told_otherwise():
    schedule, data = NoiseSchedule(), jnp.full(SHAPE, 2.0)
    eps = jnp.asarray(NOISE)
    signal, sigma = schedule.coefficients(jnp.asarray(951))
    found = sample(lambda z, t: eps, signal * data + sigma * eps, draw, schedule, 20, "ddim")
    np.testing.assert_allclose(found, schedule.add_noise(data, eps, jnp.zeros(2, int)), atol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", [3, 600])
def test_sample_by_ddpm_ignores_the_last_steps_noise_and_no_other(num_steps, spacing):
    schedule = NoiseSchedule(timestep_spacing=spacing)

    def run(silent_step: int) -> jax.Array:
        return sample(
            lambda z, t: network(z, t.astype(float), jnp),
            jnp.asarray(NOISE),
            lambda i: jnp.where(i == silent_step, 0.0, STEP_NOISE[0]),
            schedule,
            num_steps,
            "ddpm",
        )

    reference = run(-1)
    assert np.abs(run(num_steps - 2) - reference).max() > 1e-3
    np.testing.assert_array_equal(run(num_steps - 1), reference)


def test_sample_takes_steps_that_differ_in_their_network():
    """Two networks, one a part of the steps: three loops give what one with a choice gives."""
    schedule, noise = NoiseSchedule(), jnp.asarray(NOISE)

    def first(z: jax.Array, t: jax.Array) -> jax.Array:
        return network(z, t.astype(jnp.float32), jnp)

    def second(z: jax.Array, t: jax.Array) -> jax.Array:
        return 0.5 * z

    chosen = [second] * 2 + [first] * 3 + [second]
    timesteps = step_table(schedule, 6, "dpmpp_2m")["t"]

    def either(z: jax.Array, t: jax.Array) -> jax.Array:
        inside = (t <= timesteps[2]) & (t >= timesteps[4])
        return jnp.where(inside, first(z, t), second(z, t))

    found = sample(chosen, noise, draw, schedule, 6, "dpmpp_2m")
    np.testing.assert_allclose(found, sample(either, noise, draw, schedule, 6, "dpmpp_2m"), atol=1e-5)
    assert np.abs(found - sample(first, noise, draw, schedule, 6, "dpmpp_2m")).max() > 1e-3
