"""The noise process against its definition and diffusers."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError

# scheduler/scheduler_config.json of Stable Diffusion 1.5.
SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def test_noise_schedule_defaults_are_sd15():
    assert NoiseSchedule.from_dict(SD15) == NoiseSchedule()


def test_noise_schedule_survives_its_own_file():
    schedule = NoiseSchedule(prediction_type="v_prediction", set_alpha_to_one=True, timestep_spacing="trailing")
    assert NoiseSchedule.from_dict(schedule.to_dict()) == schedule


@pytest.mark.parametrize(
    "change",
    [
        {"clip_sample": True},
        {"trained_betas": [0.1]},
        {"rescale_betas_zero_snr": True},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"prediction_type": "sample"},
        {"timestep_spacing": "linspace"},
        {"use_karras_sigmas": True},
    ],
)
def test_noise_schedule_rejects_what_it_cannot_honour(change):
    (key,) = change
    with pytest.raises(LDISError, match=key):
        NoiseSchedule.from_dict(SD15 | change)


def test_noise_schedule_alphas_cumprod_is_the_cumulative_product():
    alpha_bar = NoiseSchedule().alphas_cumprod
    betas = [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * t / 999) ** 2 for t in range(1000)]
    product = 1.0
    for t in range(1000):
        product *= 1 - betas[t]
        assert alpha_bar[t] == pytest.approx(product, rel=1e-12)


def test_noise_schedule_takes_linear_betas():
    alpha_bar = NoiseSchedule(
        beta_schedule="linear", beta_start=0.1, beta_end=0.3, num_train_timesteps=3
    ).alphas_cumprod
    np.testing.assert_allclose(alpha_bar, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])


def test_noise_schedule_spaces_leading_timesteps():
    np.testing.assert_array_equal(NoiseSchedule().timesteps(20), range(951, 0, -50))
    np.testing.assert_array_equal(NoiseSchedule(steps_offset=0).timesteps(4), [750, 500, 250, 0])


def test_noise_schedule_spaces_trailing_timesteps():
    np.testing.assert_array_equal(NoiseSchedule(timestep_spacing="trailing").timesteps(4), [999, 749, 499, 249])


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_noise_schedule_rejects_impossible_step_counts(num_steps):
    with pytest.raises(LDISError, match=f"num_steps={num_steps}"):
        NoiseSchedule().timesteps(num_steps)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_schedule_noise_and_target_are_diffusers(prediction_type):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule(prediction_type=prediction_type)
    theirs = diffusers.DDPMScheduler(
        **{k: v for k, v in dataclasses.asdict(schedule).items() if k != "set_alpha_to_one"}
    )
    latents, noise = np.random.default_rng(0).normal(size=(2, 4, 3, 3, 4)).astype(np.float32)
    t = np.array([0, 1, 500, 999])
    x, eps, time = torch.from_numpy(latents), torch.from_numpy(noise), torch.from_numpy(t)
    noisy = schedule.add_noise(jnp.asarray(latents), jnp.asarray(noise), jnp.asarray(t))
    np.testing.assert_allclose(noisy, theirs.add_noise(x, eps, time).numpy(), atol=2e-6)
    target = schedule.training_target(jnp.asarray(latents), jnp.asarray(noise), jnp.asarray(t))
    expected = eps if prediction_type == "epsilon" else theirs.get_velocity(x, eps, time)
    np.testing.assert_allclose(target, expected.numpy(), atol=2e-6)
