"""LDIS-1: the UNet paints the pseudo mask's latent from the query's latent in one step (paper section "LDIS-1")."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ldis_jax import prompting
from ldis_jax.models.ldis import LDISModel
from ldis_jax.tasks.task import PromptInputs, Task, decode_residual, encode_query_and_target


@dataclasses.dataclass(frozen=True)
class LDIS1(Task):
    """One-step segmentation.

    Attributes:
        timestep: the constant timestep given to the UNet; no noise is added, as in the public code.
        query_latents: "mode" of the query's posterior (reproducible), or "sample" as the public code draws it.
    """

    name = "ldis1"
    unet_in_channels = 4

    timestep: int = 0
    query_latents: str = "mode"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.query_latents not in ("mode", "sample"):
            raise ValueError(f"query_latents={self.query_latents!r}; must be 'mode' or 'sample'")

    def loss(
        self, model: LDISModel, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Latent-space loss, eq. 6: MSE(UNet(z_q), sample of E(M_a)), both scaled."""
        target_key, query_key = jax.random.split(key)
        scale = model.vae.scaling_factor
        (mean, std), target_latents = encode_query_and_target(
            model.vae, batch["query_image"], batch["query_mask"], self.mask_alpha, target_key
        )
        if self.query_latents == "sample":
            mean += std * jax.random.normal(query_key, mean.shape)
        prompts = PromptInputs(batch["prompt_images"], batch["prompt_masks"])
        prediction = self._paint(model, mean * scale, prompts)
        return jnp.mean(jnp.square(prediction - target_latents * scale)), {}

    def predict(
        self, model: LDISModel, query_image: jax.Array, prompts: PromptInputs, keys: jax.Array, **options: Any
    ) -> jax.Array:
        """See :meth:`Task.predict`; takes no options."""
        if options:
            raise TypeError(f"LDIS-1 takes no option {sorted(options)}")
        latents, std = model.vae.encode(query_image)
        if self.query_latents == "sample":
            latents += std * jax.vmap(lambda key: jax.random.normal(key, std.shape[1:]))(keys)
        latents = self._paint(model, latents * model.vae.scaling_factor, prompts)
        return decode_residual(model.vae, latents, query_image, self.mask_alpha)

    def _paint(self, model: LDISModel, query_latents: jax.Array, prompts: PromptInputs) -> jax.Array:
        """Scaled query latents -> scaled pseudo-mask latents, [B, s, s, 4]."""
        tokens, mask = prompting.instruction_tokens(model.prompt_encoder, prompts.images, prompts.masks)
        bias = prompting.attention_bias(mask, prompts.num_prompts, prompts.images.shape[1])
        timesteps = jnp.full(query_latents.shape[:1], self.timestep)
        return model.unet(query_latents, timesteps, tokens, bias)
