"""LDIS-n: the pseudo mask's latent is denoised over many steps beside the query's latent (paper section "LDIS-n")."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ldis_jax.diffusion import SAMPLERS, Denoise, NoiseSchedule, sample, two_scale_guidance
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.unet import Instruction
from ldis_jax.runtime.sharding import draw_batch
from ldis_jax.support.prediction_options import OPTIONS
from ldis_jax.tasks import instruction
from ldis_jax.tasks.task import Prompts, Task, decode, draw_noise, encode_query_and_target, interleave, separate


class Conditions(NamedTuple):
    """Values that stay the same over the steps of a prediction.

    Attributes:
        query_latents: [B, s, s, 4], not scaled.
        prompted, unprompted: what the cross-attention layers read of the prompts' and of the null instruction.
    """

    query_latents: jax.Array
    prompted: list[Instruction]
    unprompted: list[Instruction]


@dataclasses.dataclass(frozen=True)
class LDISN(Task):
    """Many-step segmentation.

    The UNet sees 8 channels: the noised target latents (scaled) and the query latents (posterior mode, **not**
    scaled, as in the public code).

    Attributes:
        conditioning_dropout: p; tokens alone, both conditions, and the query alone are each dropped with
            probability p in training.
        num_steps, sampler: defaults of prediction.
        timestep_spacing: of prediction: "leading", "trailing", or "schedule" for the noise schedule's own.
        image_guidance_scale, prompt_guidance_scale: s_q and s_t of eq. 10, defaults of prediction.
        guidance_start, guidance_end: guidance applies to the steps between these shares of their number; the others
            evaluate the prompted branch alone, a third of the work. The paper guides all.
    """

    name = "ldisn"
    unet_in_channels = 8
    choices: ClassVar = {
        **Task.choices,
        "sampler": SAMPLERS,
        "timestep_spacing": ("schedule", *OPTIONS["timestep_spacing"].choices),
    }

    mask_alpha: float = 0.4
    conditioning_dropout: float = 0.05
    num_steps: int = 20
    sampler: str = "ddpm"
    timestep_spacing: str = "schedule"
    image_guidance_scale: float = 1.5
    prompt_guidance_scale: float = 7.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        ordered = 0 <= self.guidance_start <= self.guidance_end <= 1
        if self.num_steps < 1 or not 0 <= self.conditioning_dropout <= 1 / 3 or not ordered:
            yield (
                f"num_steps={self.num_steps}, conditioning_dropout={self.conditioning_dropout}, "
                f"guidance_start={self.guidance_start}, guidance_end={self.guidance_end}: need num_steps >= 1, "
                "conditioning_dropout from 0 to 1/3, 0 <= guidance_start <= guidance_end <= 1"
            )

    def loss(self, model: LDISModel, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """Denoising loss, eq. 9, with conditioning dropout."""
        target_key, time_key, noise_key, dropout_key, perturb_key = jax.random.split(key, 5)
        target = self.target_image(batch["query_mask"], batch["query_image"], perturb_key)
        (query_latents, _), target_latents = encode_query_and_target(
            model.vae, batch["query_image"], target, target_key
        )
        target_latents *= model.vae.scaling_factor
        size = query_latents.shape[0]
        draw_times = functools.partial(jax.random.randint, minval=0, maxval=self.schedule.num_train_timesteps)
        timesteps = draw_batch(draw_times, time_key, (size,))
        noise = draw_batch(jax.random.normal, noise_key, target_latents.shape)
        noisy_latents = self.schedule.add_noise(target_latents, noise, timesteps)

        num_prompts = batch["prompt_images"].shape[1]
        tokens, mask = self.instruction_tokens(model.prompt_encoder, batch["prompt_images"], batch["prompt_masks"])
        null_tokens = instruction.null_instruction_tokens(model.prompt_encoder, num_prompts)
        # InstructPix2Pix's rule, one draw a sample: [0, p) tokens, [p, 2p) both, [2p, 3p) query latents.
        u, p = draw_batch(jax.random.uniform, dropout_key, (size,)), self.conditioning_dropout
        tokens = jnp.where((u < 2 * p)[:, None, None], null_tokens, tokens)
        query_latents = jnp.where(((u >= p) & (u < 3 * p))[:, None, None, None], 0.0, query_latents)

        inputs = jnp.concatenate([noisy_latents, query_latents], axis=-1)
        prediction = model.unet(inputs, timesteps, tokens, instruction.attention_bias(mask))
        goal = self.schedule.training_target(target_latents, noise, timesteps)
        return jnp.mean(jnp.square(prediction - goal))

    def render(
        self,
        model: LDISModel,
        query_image: jax.Array,
        prompts: Prompts,
        keys: jax.Array,
        *,
        noise: jax.Array | None = None,
        step_noise: jax.Array | None = None,
        **options: Any,
    ) -> jax.Array:
        """See :meth:`Task.render`.

        Args:
            model: the networks.
            query_image: [B, S, S, 3] in [-1, 1].
            prompts: K prompts a query.
            keys: [B] random keys.
            noise: [B, s, s, 4] in place of the initial draw.
            step_noise: [num_steps, B, s, s, 4] in place of ddpm's draws; the last one has no effect.
            **options: of :data:`ldis_jax.support.prediction_options.OPTIONS`, in place of the task's defaults.
        """
        task = dataclasses.replace(self, **options)
        conditions = task.conditions(model, query_image, prompts)
        guided, prompted = task.denoisers(model, conditions)
        shape = conditions.query_latents.shape[1:]
        latents = sample(
            [guided if task.is_guided(i) else prompted for i in range(task.num_steps)],
            draw_noise(keys, shape, 0) if noise is None else noise,
            lambda step: draw_noise(keys, shape, step + 1) if step_noise is None else step_noise[step],
            task.prediction_schedule,
            task.num_steps,
            task.sampler,
        )
        return decode(model.vae, latents)

    @property
    def prediction_schedule(self) -> NoiseSchedule:
        """The noise process with prediction's spacing of timesteps."""
        if self.timestep_spacing == "schedule":
            return self.schedule
        return dataclasses.replace(self.schedule, timestep_spacing=self.timestep_spacing)

    def is_guided(self, step: int) -> bool:
        """True if step number ``step`` of prediction is guided."""
        return self.guidance_start <= step / self.num_steps < self.guidance_end

    def conditions(self, model: LDISModel, query_image: jax.Array, prompts: Prompts) -> Conditions:
        """The inputs that all steps of a prediction share; arguments as :meth:`predict`'s."""
        query_latents, _ = model.vae.encode(query_image)
        tokens, mask, num_prompts = self.read_prompts(model.prompt_encoder, prompts)
        bias = instruction.attention_bias(mask, num_prompts, model.prompt_encoder.config.num_tokens)
        null = instruction.null_instruction_tokens(model.prompt_encoder, 1)
        null_bias = instruction.repeated_tokens_bias(bias, null.shape[1])
        unprompted = model.unet.instruct(null, null_bias, branches=2)
        return Conditions(query_latents, model.unet.instruct(tokens, bias), unprompted)

    def denoisers(self, model: LDISModel, conditions: Conditions) -> tuple[Denoise, Denoise]:
        """The guided prediction of eq. 10, and the prompted branch alone, of z_t [B, s, s, 4] and a timestep."""
        query_latents, prompted, unprompted = conditions
        # Three branches in one batch: (z_q, tokens), (z_q, null), (0, null); all under the same instruction mask.
        branch_latents = interleave(query_latents, query_latents, jnp.zeros_like(query_latents))

        def guided(z: jax.Array, timestep: jax.Array) -> jax.Array:
            inputs = jnp.concatenate([interleave(z, z, z), branch_latents], axis=-1)
            timesteps = jnp.full(inputs.shape[:1], timestep)
            full, null_prompt, null_both = separate(model.unet.evaluate(inputs, timesteps, prompted, unprompted), 3)
            scales = (self.image_guidance_scale, self.prompt_guidance_scale)
            return two_scale_guidance(full, null_prompt, null_both, *scales)

        def prompted_alone(z: jax.Array, timestep: jax.Array) -> jax.Array:
            inputs = jnp.concatenate([z, query_latents], axis=-1)
            return model.unet.evaluate(inputs, jnp.full(z.shape[:1], timestep), prompted)

        return guided, prompted_alone
