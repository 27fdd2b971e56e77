"""LDIS-1: the UNet paints the pseudo mask's latent from the query's latent in one step (paper section "LDIS-1")."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ldis_jax.errors import LDISError
from ldis_jax.models.ldis import LDISModel
from ldis_jax.tasks import instruction
from ldis_jax.tasks.task import (
    PromptInputs,
    Prompts,
    Task,
    decode,
    encode_query_and_target,
    require_choice,
)


@dataclasses.dataclass(frozen=True)
class LDIS1(Task):
    """One-step segmentation.

    Attributes:
        timestep: the constant timestep given to the UNet.
        noised: whether the query's latents are noised at ``timestep`` (the paper's z_t); the public code adds none.
        query_latents: "mode" of the query's posterior (reproducible), or "sample" as the public code draws it.
        loss_space: "latent" (eq. 6) or "pixel" (eq. 5).
    """

    name = "ldis1"
    unet_in_channels = 4

    timestep: int = 0
    noised: bool = False
    query_latents: str = "mode"
    loss_space: str = "latent"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("query_latents", self.query_latents, ("mode", "sample"))
        require_choice("loss_space", self.loss_space, ("latent", "pixel"))
        if self.timestep >= (last := self.schedule.num_train_timesteps):
            raise LDISError(f"timestep={self.timestep}: must be less than the noise schedule's {last}")

    @property
    def needs_schedule(self) -> bool:
        return self.noised

    @property
    def draws_noise(self) -> bool:
        return self.noised or self.query_latents == "sample"

    def loss(
        self, model: LDISModel, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """How far the painted pseudo mask is from the true one, M.

        Latent-space, eq. 6: MSE(UNet(z_q), sample of E(M)), both scaled. Pixel-space, eq. 5: MSE(D(UNet(z_q) / scale),
        M), through the frozen decoder, whose blocks are computed again in the backward pass.
        """
        target_key, query_key, noise_key, perturb_key = jax.random.split(key, 4)
        scale = model.vae.scaling_factor
        target = self.target_image(batch["query_mask"], batch["query_image"], perturb_key)
        if self.loss_space == "pixel":
            mean, std = model.vae.encode(batch["query_image"])
        else:
            (mean, std), target_latents = encode_query_and_target(model.vae, batch["query_image"], target, target_key)
        if self.query_latents == "sample":
            mean += std * jax.random.normal(query_key, mean.shape)
        latents = self._noised(mean * scale, lambda: jax.random.normal(noise_key, mean.shape))
        prompts = PromptInputs(batch["prompt_images"], batch["prompt_masks"])
        prediction = self._paint(model, latents, prompts)
        if self.loss_space == "pixel":
            painted = model.vae.decode(prediction / scale, remat="blocks")
            return jnp.mean(jnp.square(painted - target)), {}
        return jnp.mean(jnp.square(prediction - target_latents * scale)), {}

    def render(
        self, model: LDISModel, query_image: jax.Array, prompts: Prompts, keys: jax.Array, **options: Any
    ) -> jax.Array:
        """See :meth:`Task.render`; takes no options."""
        if options:
            raise TypeError(f"LDIS-1 takes no option {sorted(options)}")
        latents, std = model.vae.encode(query_image)
        shape = std.shape[1:]
        if self.query_latents == "sample":
            latents += std * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

        def noise() -> jax.Array:
            return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), shape))(keys)

        latents = self._noised(latents * model.vae.scaling_factor, noise)
        latents = self._paint(model, latents, prompts)
        return decode(model.vae, latents)

    def _noised(self, latents: jax.Array, noise: Callable[[], jax.Array]) -> jax.Array:
        """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) noise of scaled latents [B, s, s, 4], where the task says so."""
        if not self.noised:
            return latents
        return self.schedule.add_noise(latents, noise(), jnp.full(latents.shape[:1], self.timestep))

    def _paint(self, model: LDISModel, query_latents: jax.Array, prompts: Prompts) -> jax.Array:
        """Scaled query latents -> scaled pseudo-mask latents, [B, s, s, 4]."""
        tokens, mask, num_prompts = self.read_prompts(model.prompt_encoder, prompts)
        bias = instruction.attention_bias(mask, num_prompts, model.prompt_encoder.config.num_tokens)
        timesteps = jnp.full(query_latents.shape[:1], self.timestep)
        return model.unet(query_latents, timesteps, tokens, bias)
