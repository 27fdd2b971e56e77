"""Reverse process: ancestral DDPM (fixed-small variance) and DDIM with eta 0, as one ``lax.scan``.

Each step is z' = c_0 x_0 + c_z z + c_e eps + c_n n, where x_0 and eps are read off the network's prediction. The
coefficients depend on the schedule alone and are computed here in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ldis_jax.diffusion.schedule import NoiseSchedule
from ldis_jax.errors import LDISError

SAMPLERS = ("ddpm", "ddim")


def step_coefficients(schedule: NoiseSchedule, timesteps: np.ndarray, sampler: str) -> dict[str, np.ndarray]:
    """Per-step constants, float32 [num_steps] each: signal and sigma of z_t, then c_0, c_z, c_e and c_n."""
    if sampler not in SAMPLERS:
        raise LDISError(f"sampler={sampler!r}: must be one of {SAMPLERS}")
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
    table = {"signal": np.sqrt(alpha), "sigma": np.sqrt(1 - alpha), "c_0": c_0, "c_z": c_z, "c_e": c_e, "c_n": c_n}
    return {name: values.astype(np.float32) for name, values in table.items()}


def sample(
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    noise: jax.Array,
    step_noise: Callable[[jax.Array], jax.Array],
    schedule: NoiseSchedule,
    num_steps: int,
    sampler: str,
) -> jax.Array:
    """Runs the reverse process.

    Args:
        denoise: (z_t [B, s, s, 4], timestep int32 []) -> prediction of the schedule's ``prediction_type``.
        noise: z_T, [B, s, s, 4], standard normal.
        step_noise: step number int32 [] -> standard normal [B, s, s, 4]; not called by ddim, without effect in the
            last step.
        schedule: the noise process.
        num_steps: network evaluations, static.
        sampler: "ddpm" or "ddim", static.

    Returns:
        z_0, [B, s, s, 4].
    """
    timesteps = schedule.timesteps(num_steps)
    table = step_coefficients(schedule, timesteps, sampler)
    steps = {k: jnp.asarray(v) for k, v in table.items()}
    steps |= {"t": jnp.asarray(timesteps, jnp.int32), "i": jnp.arange(num_steps, dtype=jnp.int32)}

    def body(z: jax.Array, step: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        prediction = denoise(z, step["t"])
        if schedule.prediction_type == "epsilon":
            eps = prediction
            x_0 = (z - step["sigma"] * eps) / step["signal"]
        else:
            x_0 = step["signal"] * z - step["sigma"] * prediction
            eps = step["signal"] * prediction + step["sigma"] * z
        z = step["c_0"] * x_0 + step["c_z"] * z + step["c_e"] * eps
        if sampler == "ddpm":
            z += step["c_n"] * step_noise(step["i"])
        return z, None

    return jax.lax.scan(body, noise, steps)[0]
