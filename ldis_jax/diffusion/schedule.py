"""The discrete noise process q(z_t | z_0) = N(sqrt(abar_t) z_0, (1 - abar_t) I) (DDPM, Ho et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.support.checks import check_fields

# Keys of diffusers' scheduler files that do not touch what is computed here, or do so only at other values.
_IGNORED = {"_class_name", "_diffusers_version", "skip_prk_steps", "variance_type", "sample_max_value"}
_IGNORED |= {"clip_sample_range", "dynamic_thresholding_ratio"}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("scaled_linear", "linear"),
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": ("leading", "trailing"),
    "clip_sample": (False,),
    "rescale_betas_zero_snr": (False,),
    "thresholding": (False,),
    "trained_betas": (None,),
}


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """diffusers' ``scheduler_config.json``; the defaults are SD 1.5's."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    set_alpha_to_one: bool = False
    steps_offset: int = 1
    timestep_spacing: str = "leading"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "scheduler_config.json") -> Self:
        """Builds the schedule from a parsed file; raises :class:`LDISError` on what it cannot honour."""
        # diffusers' defaults for these are not SD 1.5's, so a file that leaves them out means something else.
        problems = [f"no {key}" for key in ("beta_start", "beta_end", "beta_schedule") if key not in values]
        fields = {field.name for field in dataclasses.fields(cls)}
        for key, value in values.items():
            if value not in _CHOICES.get(key, (value,) if key in fields | _IGNORED else ()):
                problems.append(f"{key}={value!r} is not supported")
        kept = {key: value for key, value in values.items() if key in fields}
        check_fields(cls, kept, where)
        schedule = cls(**kept)
        if not 0 < schedule.beta_start <= schedule.beta_end < 1 or not schedule.num_train_timesteps:
            problems.append("needs 0 < beta_start <= beta_end < 1 and num_train_timesteps > 0")
        if problems:
            raise LDISError(f"{where}: not a noise schedule like SD 1.5's: {'; '.join(problems)}")
        return schedule

    def to_dict(self) -> dict[str, Any]:
        """The inverse of :meth:`from_dict`, loadable by diffusers' DDPM and DDIM schedulers."""
        return {"_class_name": "DDPMScheduler", **dataclasses.asdict(self), "clip_sample": False}

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """abar_t, float64 [num_train_timesteps]."""
        power = 2 if self.beta_schedule == "scaled_linear" else 1
        root = np.linspace(self.beta_start ** (1 / power), self.beta_end ** (1 / power), self.num_train_timesteps)
        return np.cumprod(1.0 - root**power)

    def timesteps(self, num_steps: int, but_last: bool = False) -> np.ndarray:
        """Descending timesteps of a sampler, int [num_steps]; ``but_last`` are those of one step more, without it."""
        if not 1 <= num_steps <= self.num_train_timesteps - but_last:
            raise LDISError(f"num_steps={num_steps}: must lie in 1..{self.num_train_timesteps - but_last}")
        if self.timestep_spacing == "leading":
            step = self.num_train_timesteps // (num_steps + but_last)
            steps = np.arange(but_last, num_steps + but_last)[::-1] * step + self.steps_offset
        else:
            stride = self.num_train_timesteps / num_steps
            steps = np.round(np.arange(self.num_train_timesteps, 0, -stride)[:num_steps]).astype(int) - 1
        return np.minimum(steps, self.num_train_timesteps - 1)

    def coefficients(self, timesteps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(sqrt(abar_t), sqrt(1 - abar_t)) at int timesteps of any shape, float32."""
        alphas = self.alphas_cumprod
        signal, noise = np.sqrt(alphas).astype(np.float32), np.sqrt(1.0 - alphas).astype(np.float32)
        return jnp.asarray(signal)[timesteps], jnp.asarray(noise)[timesteps]

    def add_noise(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """A draw of q(z_t | z_0): latents and noise [B, s, s, 4], timesteps int [B]."""
        signal, sigma = (c[:, None, None, None] for c in self.coefficients(timesteps))
        return signal * latents + sigma * noise

    def training_target(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """The UNet's regression target: epsilon, or v = sqrt(abar) epsilon - sqrt(1 - abar) z_0."""
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = (c[:, None, None, None] for c in self.coefficients(timesteps))
        return signal * noise - sigma * latents
