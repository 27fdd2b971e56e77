"""LDIS-1: the UNet predicts the pseudo mask's latent from the query's latent in one step (paper section "LDIS-1")."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from ldis_jax.models.efficientnet import EfficientNetLite0
from ldis_jax.models.ldis import LDISModel
from ldis_jax.runtime.sharding import draw_batch
from ldis_jax.tasks import instruction
from ldis_jax.tasks.resize import resize_bilinear
from ldis_jax.tasks.task import PromptInputs, Prompts, Task, decode, draw_noise, encode_query_and_target


@dataclasses.dataclass(frozen=True)
class LDIS1(Task):
    """One-step segmentation.

    Attributes:
        timestep: the constant timestep given to the UNet.
        noised: whether the query's latents are noised at ``timestep`` (the paper's z_t); the public code adds none.
        query_latents: "mode" of the query's posterior (reproducible), or "sample" as the public code draws it.
        loss_space: "latent" (eq. 6) or "pixel" (eq. 5).
        balance: e in the weight (background / object)^e, in places, that the latent loss gives to places of the object;
            0 in the paper. A network that is unsure renders the mean, and of small objects that is background.
    """

    name = "ldis1"
    unet_in_channels = 4
    choices: ClassVar = {**Task.choices, "query_latents": ("mode", "sample"), "loss_space": ("latent", "pixel")}

    timestep: int = 0
    noised: bool = False
    query_latents: str = "mode"
    loss_space: str = "latent"
    balance: float = 0.0

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.timestep >= (last := self.schedule.num_train_timesteps):
            yield f"timestep={self.timestep}: must be less than the noise schedule's {last}"
        if not 0 <= self.balance <= 1 or (self.balance and self.loss_space == "pixel"):
            yield f"balance={self.balance}: must be from 0 to 1, and 0 with loss_space 'pixel'"

    @property
    def needs_schedule(self) -> bool:
        return self.noised

    @property
    def draws_noise(self) -> bool:
        return self.noised or self.query_latents == "sample"

    def loss(self, model: LDISModel, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """How far the predicted pseudo mask is from the true one, M.

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
            mean += std * draw_batch(jax.random.normal, query_key, mean.shape)
        latents = self._noised(mean * scale, lambda: draw_batch(jax.random.normal, noise_key, mean.shape))
        prompts = PromptInputs(batch["prompt_images"], batch["prompt_masks"])
        prediction = self._target_latents(model, latents, batch["query_image"], prompts)
        if self.loss_space == "pixel":
            rendered = model.vae.decode(prediction / scale, remat="blocks")
            return jnp.mean(jnp.square(rendered - target))
        errors = jnp.square(prediction - target_latents * scale)
        if self.balance:
            errors *= self._weights(batch["query_mask"], errors.shape[1])[..., None]
        return jnp.mean(errors)

    def render(  # type: ignore[override]
        self, model: LDISModel, query_image: jax.Array, prompts: Prompts, keys: jax.Array
    ) -> jax.Array:
        """See :meth:`Task.render`; takes no options."""
        latents, std = model.vae.encode(query_image)
        shape = std.shape[1:]
        if self.query_latents == "sample":
            latents += std * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

        latents = self._noised(latents * model.vae.scaling_factor, lambda: draw_noise(keys, shape, 1))
        return decode(model.vae, self._target_latents(model, latents, query_image, prompts))

    def _weights(self, mask: jax.Array, side: int) -> jax.Array:
        """How much the places of latents count, float32 [B, side, side] of mean 1 in each of masks [B, S, S]."""
        cell = mask.shape[1] // side
        share = jnp.mean((mask == 1).reshape(-1, side, cell, side, cell).astype(jnp.float32), axis=(2, 4))
        size = jnp.sum(share, axis=(1, 2), keepdims=True)
        ratio = ((side**2 - size + 1.0) / (size + 1.0)) ** self.balance
        weights = 1.0 + share * (ratio - 1.0)
        return weights / jnp.mean(weights, axis=(1, 2), keepdims=True)

    def _noised(self, latents: jax.Array, noise: Callable[[], jax.Array]) -> jax.Array:
        """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) noise of scaled latents [B, s, s, 4], where the task says so."""
        if not self.noised:
            return latents
        return self.schedule.add_noise(latents, noise(), jnp.full(latents.shape[:1], self.timestep))

    def _target_latents(
        self, model: LDISModel, query_latents: jax.Array, query_image: jax.Array, prompts: Prompts
    ) -> jax.Array:
        """Scaled query latents -> scaled pseudo-mask latents, [B, s, s, 4]."""
        tokens, mask, num_prompts = self.read_prompts(model.prompt_encoder, prompts)
        bias = instruction.attention_bias(mask, num_prompts, model.prompt_encoder.config.num_tokens)
        inputs = query_latents
        if isinstance(model.prompt_encoder, EfficientNetLite0):
            described = instruction.describe_query(model.prompt_encoder, query_image, tokens, bias)
            inputs = jnp.concatenate([inputs, resize_bilinear(described, inputs.shape[1])], axis=-1)
        timesteps = jnp.full(query_latents.shape[:1], self.timestep)
        return model.unet(inputs, timesteps, tokens, bias)
