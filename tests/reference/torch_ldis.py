"""LDIS-1 and LDIS-n in torch over diffusers' networks and schedulers, from shared/method.md; one branch at a time.

NumPy NHWC arrays in, NumPy NHWC arrays out (losses stay torch scalars); NCHW inside.
"""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.schedulers import scheduling_ddpm

from tests.reference.alpha_clip import AlphaCLIP


def nchw(x: np.ndarray) -> torch.Tensor:
    """[..., H, W, C] -> float32 [..., C, H, W]."""
    return torch.from_numpy(np.array(x, np.float32)).movedim(-1, -3)


def nhwc(x: torch.Tensor) -> np.ndarray:
    """[..., C, H, W] -> [..., H, W, C]."""
    return x.detach().movedim(-3, -1).numpy()


def encode_mask(mask: np.ndarray, query: torch.Tensor, g: float) -> torch.Tensor:
    """Eq. 2-4: [B, S, S] and [B, 3, S, S] -> the augmented pseudo mask [B, 3, S, S]."""
    foreground = torch.from_numpy(np.array(mask)) == 1
    vanilla = torch.zeros_like(query)
    vanilla[:, 0] = torch.where(foreground, -1.0, 1.0)
    vanilla[:, 1] = torch.where(foreground, 1.0, -1.0)
    return (1 - g) * vanilla + g * query


class TorchLDIS:
    """One model folder, as ``ldis_jax.convert.save_model`` writes it."""

    def __init__(self, folder: Path):
        self.task = json.loads((folder / "ldis_config.json").read_text())
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        self.vae = AutoencoderKL.from_pretrained(folder / "vae")
        self.prompt_encoder = AlphaCLIP.from_folder(folder / "prompt_encoder")
        self.schedulers = {
            "ddpm": DDPMScheduler.from_pretrained(folder / "scheduler"),
            "ddim": DDIMScheduler.from_pretrained(folder / "scheduler"),
        }
        self.scale = self.vae.config.scaling_factor
        self.g = self.task["mask_alpha"]

    def instruction_tokens(self, images: np.ndarray, masks: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, K, S, S, 3] and [B, K, S, S] in {0, 1, 255} -> tokens [B, K*L, D] and 0/1 mask [B, K*L]."""
        tower, tokens, token_masks = self.prompt_encoder, [], []
        for k in range(images.shape[1]):
            mask = torch.from_numpy(np.array(masks[:, k] == 1, np.float32))[:, None]
            picture = F.interpolate(nchw(images[:, k]), tower.image_size, mode="bilinear", align_corners=False)
            alpha = (F.interpolate(mask, tower.image_size, mode="nearest") - 0.5) / 0.26
            tokens.append(tower(picture, alpha))
            token_masks.append(F.interpolate(mask, tower.grid, mode="nearest").flatten(1))
        return torch.cat(tokens, dim=1), torch.cat(token_masks, dim=1)

    def null_tokens(self, batch: int, num_prompts: int) -> torch.Tensor:
        """[B, K*L, D]: the tower on an all-zero picture that is object everywhere."""
        size = self.prompt_encoder.image_size
        alpha = torch.full((1, 1, size, size), (1 - 0.5) / 0.26)
        return self.prompt_encoder(torch.zeros(1, 3, size, size), alpha).repeat(batch, num_prompts, 1)

    def denoise(
        self, latents: torch.Tensor, timestep: torch.Tensor | int, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """One UNet call; diffusers turns the 0/1 mask into (1 - mask) * -10000 itself."""
        return self.unet(latents, timestep, tokens, encoder_attention_mask=mask).sample

    def _residual(self, latents: torch.Tensor, query: torch.Tensor) -> np.ndarray:
        return nhwc(self.vae.decode(latents / self.scale).sample - self.g * query)

    @torch.no_grad()
    def predict_ldis1(self, query_image: np.ndarray, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """R [B, S, S, 3] of LDIS-1, the query encoded as the posterior's mode."""
        query = nchw(query_image)
        latents = self.vae.encode(query).latent_dist.mode() * self.scale
        painted = self.denoise(latents, self.task["timestep"], *self.instruction_tokens(images, masks))
        return self._residual(painted, query)

    @torch.no_grad()
    def predict_ldisn(
        self,
        query_image: np.ndarray,
        images: np.ndarray,
        masks: np.ndarray,
        *,
        noise: np.ndarray,
        step_noise: np.ndarray,
        num_steps: int,
        sampler: str,
        image_guidance_scale: float,
        prompt_guidance_scale: float,
    ) -> np.ndarray:
        """R [B, S, S, 3] of LDIS-n: eq. 10 over diffusers' own sampler."""
        query = nchw(query_image)
        query_latents = self.vae.encode(query).latent_dist.mode()  # not scaled
        tokens, mask = self.instruction_tokens(images, masks)
        null = self.null_tokens(*images.shape[:2])
        scheduler = self.schedulers[sampler]
        scheduler.set_timesteps(num_steps)
        z, nothing = nchw(noise), torch.zeros_like(query_latents)
        for i, t in enumerate(scheduler.timesteps):
            full = self.denoise(torch.cat([z, query_latents], dim=1), t, tokens, mask)
            query_only = self.denoise(torch.cat([z, query_latents], dim=1), t, null, mask)
            neither = self.denoise(torch.cat([z, nothing], dim=1), t, null, mask)
            guided = neither + image_guidance_scale * (query_only - neither)
            guided = guided + prompt_guidance_scale * (full - query_only)
            with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *_, i=i, **__: nchw(step_noise[i])):
                z = scheduler.step(guided, t, z).prev_sample
        return self._residual(z, query)

    def _posterior_sample(self, image: torch.Tensor, noise: np.ndarray) -> torch.Tensor:
        posterior = self.vae.encode(image).latent_dist
        return posterior.mean + posterior.std * nchw(noise)

    def loss_ldis1(self, batch: dict[str, np.ndarray], target_noise: np.ndarray) -> torch.Tensor:
        """Eq. 6."""
        query = nchw(batch["query_image"])
        with torch.no_grad():
            target = self._posterior_sample(encode_mask(batch["query_mask"], query, self.g), target_noise) * self.scale
            latents = self.vae.encode(query).latent_dist.mode() * self.scale
            tokens, mask = self.instruction_tokens(batch["prompt_images"], batch["prompt_masks"])
        return F.mse_loss(self.denoise(latents, self.task["timestep"], tokens, mask), target)

    def loss_ldisn(
        self,
        batch: dict[str, np.ndarray],
        target_noise: np.ndarray,
        timesteps: np.ndarray,
        noise: np.ndarray,
        u: np.ndarray,
    ) -> torch.Tensor:
        """Eq. 9, or its v-prediction form, with InstructPix2Pix's dropout under the draws u [B]."""
        query, t, eps = nchw(batch["query_image"]), torch.from_numpy(np.array(timesteps)).long(), nchw(noise)
        scheduler, p = self.schedulers["ddpm"], self.task["conditioning_dropout"]
        with torch.no_grad():
            target = self._posterior_sample(encode_mask(batch["query_mask"], query, self.g), target_noise) * self.scale
            query_latents = self.vae.encode(query).latent_dist.mode()
            tokens, mask = self.instruction_tokens(batch["prompt_images"], batch["prompt_masks"])
            null = self.null_tokens(*batch["prompt_images"].shape[:2])
        for b, draw in enumerate(u):
            if draw < 2 * p:
                tokens[b] = null[b]
            if p <= draw < 3 * p:
                query_latents[b] = 0
        inputs = torch.cat([scheduler.add_noise(target, eps, t), query_latents], dim=1)
        v_prediction = scheduler.config.prediction_type == "v_prediction"
        goal = scheduler.get_velocity(target, eps, t) if v_prediction else eps
        return F.mse_loss(self.denoise(inputs, t, tokens, mask), goal)
