"""Reverse process: ancestral DDPM (fixed-small variance), DDIM with eta 0, DPM-Solver++ (2M), as ``lax.scan``.

Each step is z' = c_0 x_0 + c_p x_0' + c_z z + c_e eps + c_n n, where x_0 and eps are read off the network's prediction
and x_0' is the step's before. The coefficients depend on the schedule alone and are computed here in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldis_jax.diffusion.schedule import NoiseSchedule
from ldis_jax.support.prediction_options import OPTIONS

SAMPLERS = tuple(OPTIONS["sampler"].choices)

Denoise = Callable[[jax.Array, jax.Array], jax.Array]


class StepState(NamedTuple):
    """Between two steps: z [B, s, s, 4], and x_0 as the step before read it off the prediction."""

    z: jax.Array
    x_0: jax.Array

    @classmethod
    def start(cls, noise: jax.Array) -> StepState:
        """Before the first step."""
        return cls(noise, jnp.zeros_like(noise))


def _multistep_coefficients(alpha: np.ndarray) -> dict[str, np.ndarray]:
    """DPM-Solver++ of order two, its midpoint form (Lu et al. 2022, algorithm 2); first and last step of order one."""
    signal, sigma = np.sqrt(alpha), np.sqrt(1 - alpha)
    half_log_snr = np.log(signal / sigma)
    next_signal, next_sigma = np.append(signal[1:], 1.0), np.append(sigma[1:], 0.0)
    h = np.append(np.diff(half_log_snr), np.inf)
    whole = next_signal * -np.expm1(-h)
    extrapolated = np.zeros_like(whole)
    extrapolated[1:-1] = 0.5 * whole[1:-1] * h[1:-1] / h[:-2]
    zeros = np.zeros_like(whole)
    return {"c_0": whole + extrapolated, "c_p": -extrapolated, "c_z": next_sigma / sigma, "c_e": zeros, "c_n": zeros}


def _one_step_coefficients(schedule: NoiseSchedule, timesteps: np.ndarray, sampler: str) -> dict[str, np.ndarray]:
    abar = schedule.alphas_cumprod
    alpha = abar[timesteps]
    # diffusers' DDPM steps to the next timestep of the list, its DDIM back by a constant stride.
    stride = schedule.num_train_timesteps // len(timesteps)
    previous = np.append(timesteps[1:], -1) if sampler == "ddpm" else timesteps - stride
    # DDPM always ends in noise-free data; DDIM's end follows the schedule (diffusers' set_alpha_to_one).
    end = 1.0 if sampler == "ddpm" or schedule.set_alpha_to_one else abar[0]
    alpha_prev = np.where(previous >= 0, abar[np.maximum(previous, 0)], end)
    zeros = np.zeros_like(alpha)
    if sampler == "ddpm":
        step_alpha = alpha / alpha_prev
        c_0 = np.sqrt(alpha_prev) * (1 - step_alpha) / (1 - alpha)
        c_z = np.sqrt(step_alpha) * (1 - alpha_prev) / (1 - alpha)
        c_e = zeros
        c_n = np.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - step_alpha))
    else:
        c_0, c_z, c_e, c_n = np.sqrt(alpha_prev), zeros, np.sqrt(1 - alpha_prev), zeros
    return {"c_0": c_0, "c_p": zeros, "c_z": c_z, "c_e": c_e, "c_n": c_n}


def sample(
    denoise: Denoise | Sequence[Denoise],
    noise: jax.Array,
    step_noise: Callable[[jax.Array], jax.Array],
    schedule: NoiseSchedule,
    num_steps: int,
    sampler: str,
) -> jax.Array:
    """Runs the reverse process.

    Args:
        denoise: (z_t [B, s, s, 4], timestep int32 []) -> prediction of the schedule's ``prediction_type``; or one of
            them a step. Steps in succession that have the same one are one loop.
        noise: z_T, [B, s, s, 4], standard normal.
        step_noise: step number int32 [] -> standard normal [B, s, s, 4]; called by ddpm alone, without effect in the
            last step.
        schedule: the noise process.
        num_steps: network evaluations, static.
        sampler: of :data:`SAMPLERS`, static.

    Returns:
        z_0, [B, s, s, 4].
    """
    steps = step_table(schedule, num_steps, sampler)
    each = [denoise] * num_steps if callable(denoise) else denoise
    assert len(each) == num_steps

    state, start = StepState.start(noise), 0
    for function, group in itertools.groupby(each):
        stop = start + len(list(group))
        part = jax.tree.map(lambda x, start=start, stop=stop: x[start:stop], steps)

        def body(state: StepState, row: dict[str, jax.Array], function: Denoise = function) -> tuple[StepState, None]:
            return take_step(function, step_noise, schedule.prediction_type, sampler, state, row), None

        state, _ = jax.lax.scan(body, state, part)
        start = stop
    return state.z


def step_table(schedule: NoiseSchedule, num_steps: int, sampler: str) -> dict[str, jax.Array]:
    """The arrays [num_steps] that :func:`take_step` needs for each step.

    They are the coefficients, signal and sigma of z_t, timestep "t" and number "i".
    """
    # Of DPM-Solver++ "leading" leaves one step out at the end, as in diffusers.
    but_last = sampler == "dpmpp_2m" and schedule.timestep_spacing == "leading"
    timesteps = schedule.timesteps(num_steps, but_last)
    alpha = schedule.alphas_cumprod[timesteps]
    if sampler == "dpmpp_2m":
        coefficients = _multistep_coefficients(alpha)
    else:
        coefficients = _one_step_coefficients(schedule, timesteps, sampler)
    coefficients |= {"signal": np.sqrt(alpha), "sigma": np.sqrt(1 - alpha)}
    table = {name: jnp.asarray(values.astype(np.float32)) for name, values in coefficients.items()}
    return table | {"t": jnp.asarray(timesteps, jnp.int32), "i": jnp.arange(num_steps, dtype=jnp.int32)}


def take_step(
    denoise: Denoise,
    step_noise: Callable[[jax.Array], jax.Array],
    prediction_type: str,
    sampler: str,
    state: StepState,
    step: dict[str, jax.Array],
) -> StepState:
    """One step of :func:`sample`; ``step`` is a row of :func:`step_table`."""
    z = state.z
    prediction = denoise(z, step["t"])
    if prediction_type == "epsilon":
        eps = prediction
        x_0 = (z - step["sigma"] * eps) / step["signal"]
    else:
        x_0 = step["signal"] * z - step["sigma"] * prediction
        eps = step["signal"] * prediction + step["sigma"] * z
    z = step["c_0"] * x_0 + step["c_z"] * z + step["c_e"] * eps
    if sampler == "dpmpp_2m":
        z += step["c_p"] * state.x_0
    if sampler == "ddpm":
        z += step["c_n"] * step_noise(step["i"])
    return StepState(z, x_0)
