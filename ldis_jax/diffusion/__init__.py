"""Noise schedule, sampler and guidance: three things, none of which knows a network."""

from ldis_jax.diffusion.guidance import two_scale_guidance
from ldis_jax.diffusion.sampler import SAMPLERS, Denoise, StepState, sample, step_table, take_step
from ldis_jax.diffusion.schedule import NoiseSchedule

__all__ = [
    "SAMPLERS",
    "Denoise",
    "NoiseSchedule",
    "StepState",
    "sample",
    "step_table",
    "take_step",
    "two_scale_guidance",
]
