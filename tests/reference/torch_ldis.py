"""LDIS-1 and LDIS-n in torch over diffusers' networks and schedulers, from shared/method.md; one branch at a time.

NumPy NHWC arrays in, NumPy NHWC arrays out (losses stay torch scalars); NCHW inside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.schedulers import scheduling_ddpm
from safetensors.torch import load_file

from tests.reference.alpha_clip import AlphaCLIP


def nchw(x: np.ndarray) -> torch.Tensor:
    """[..., H, W, C] -> float32 [..., C, H, W]."""
    return torch.from_numpy(np.array(x, np.float32)).movedim(-1, -3)


def nhwc(x: torch.Tensor) -> np.ndarray:
    """[..., C, H, W] -> [..., H, W, C]."""
    return x.detach().movedim(-3, -1).numpy()


def encode_mask(
    mask: np.ndarray, query: torch.Tensor, task: dict[str, Any], perturbation: np.ndarray | None = None
) -> torch.Tensor:
    """Eq. 2-4 and the ablations: [B, S, S] and [B, 3, S, S] -> what is to be painted, [B, 3, S, S]."""
    foreground = torch.from_numpy(np.array(mask)) == 1
    vanilla = torch.zeros_like(query)
    vanilla[:, 0] = torch.where(foreground, -1.0, 1.0)
    vanilla[:, 1] = torch.where(foreground, 1.0, -1.0)
    match task["target"]:
        case "perturbed":
            assert perturbation is not None
            return vanilla + task["mask_noise"] * nchw(perturbation)
        case "added":
            return vanilla + query / task["mask_alpha"]
    return (1 - task["mask_alpha"]) * vanilla + task["mask_alpha"] * query


def picture_part(query: torch.Tensor, task: dict[str, Any]) -> torch.Tensor:
    """What of the query is in :func:`encode_mask`."""
    match task["target"]:
        case "perturbed":
            return torch.zeros_like(query)
        case "added":
            return query / task["mask_alpha"]
    return query * task["mask_alpha"]


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

    def instruction_tokens(self, images: np.ndarray, masks: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, K, S, S, 3] and [B, K, S, S] in {0, 1, 255} -> tokens [B, K*L, D] and 0/1 mask [B, K*L]."""
        tower, tokens, token_masks, masking = self.prompt_encoder, [], [], self.task["masking"]
        for k in range(images.shape[1]):
            mask = torch.from_numpy(np.array(masks[:, k] == 1, np.float32))[:, None]
            picture = F.interpolate(nchw(images[:, k]), tower.image_size, mode="bilinear", align_corners=False)
            shown = mask if masking in ("both", "pre") else torch.ones_like(mask)
            alpha = (F.interpolate(shown, tower.image_size, mode="nearest") - 0.5) / 0.26
            tokens.append(tower(picture, alpha))
            token_mask = F.interpolate(mask, tower.grid, mode="nearest").flatten(1)
            token_masks.append(token_mask if masking in ("both", "post") else torch.ones_like(token_mask))
        return torch.cat(tokens, dim=1), torch.cat(token_masks, dim=1)

    def null_tokens(self, batch: int, num_prompts: int) -> torch.Tensor:
        """[B, K*L, D]: the tower on an all-zero image that is object everywhere."""
        size = self.prompt_encoder.image_size
        alpha = torch.full((1, 1, size, size), (1 - 0.5) / 0.26)
        return self.prompt_encoder(torch.zeros(1, 3, size, size), alpha).repeat(batch, num_prompts, 1)

    def denoise(
        self, latents: torch.Tensor, timestep: torch.Tensor | int, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """One UNet call; diffusers turns the 0/1 mask into (1 - mask) * -10000 itself."""
        return self.unet(latents, timestep, tokens, encoder_attention_mask=mask).sample

    def _residual(self, latents: torch.Tensor, query: torch.Tensor) -> np.ndarray:
        return nhwc(self.vae.decode(latents / self.scale).sample - picture_part(query, self.task))

    def _noised(self, latents: torch.Tensor, noise: np.ndarray | None) -> torch.Tensor:
        """The paper's z_t, by diffusers' scheduler; the latents themselves where there is no noise."""
        if noise is None:
            return latents
        return self.schedulers["ddpm"].add_noise(latents, nchw(noise), torch.tensor([self.task["timestep"]]))

    @torch.no_grad()
    def predict_ldis1(
        self, query_image: np.ndarray, images: np.ndarray, masks: np.ndarray, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """R [B, S, S, 3] of LDIS-1, the query encoded as the posterior's mode."""
        query = nchw(query_image)
        latents = self._noised(self.vae.encode(query).latent_dist.mode() * self.scale, noise)
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

    def loss_ldis1(
        self,
        batch: dict[str, np.ndarray],
        target_noise: np.ndarray,
        query_noise: np.ndarray | None = None,
        noise: np.ndarray | None = None,
        perturbation: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Eq. 6, or eq. 5 where the task says so; ``query_noise`` samples the query's posterior."""
        query = nchw(batch["query_image"])
        goal = encode_mask(batch["query_mask"], query, self.task, perturbation)
        with torch.no_grad():
            target = self._posterior_sample(goal, target_noise) * self.scale
            mode = query_noise is None
            latents = self.vae.encode(query).latent_dist.mode() if mode else self._posterior_sample(query, query_noise)
            latents = self._noised(latents * self.scale, noise)
            tokens, mask = self.instruction_tokens(batch["prompt_images"], batch["prompt_masks"])
        painted = self.denoise(latents, self.task["timestep"], tokens, mask)
        if self.task["loss_space"] == "pixel":
            return F.mse_loss(self.vae.decode(painted / self.scale).sample, goal)
        return F.mse_loss(painted, target)

    def loss_ldisn(
        self,
        batch: dict[str, np.ndarray],
        target_noise: np.ndarray,
        timesteps: np.ndarray,
        noise: np.ndarray,
        u: np.ndarray,
        perturbation: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Eq. 9, or its v-prediction form, with InstructPix2Pix's dropout under the draws u [B]."""
        query, t, eps = nchw(batch["query_image"]), torch.from_numpy(np.array(timesteps)).long(), nchw(noise)
        scheduler, p = self.schedulers["ddpm"], self.task["conditioning_dropout"]
        with torch.no_grad():
            goal = encode_mask(batch["query_mask"], query, self.task, perturbation)
            target = self._posterior_sample(goal, target_noise) * self.scale
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


def torch_unet(folder: Path) -> UNet2DConditionModel:
    """The UNet of a model folder."""
    return UNet2DConditionModel.from_pretrained(folder / "unet")


def add_lora(unet: UNet2DConditionModel, path: Path) -> tuple[dict[str, torch.Tensor], set[str]]:
    """Hooks that add B (A x) to the layers a LoRA file names.

    Returns:
        (A and B as leaves under their names without "unet.", names of the parameters that the file replaces).
    """
    tensors = {name.removeprefix("unet."): tensor for name, tensor in load_file(path).items()}
    pairs = {name: tensor.requires_grad_() for name, tensor in tensors.items() if ".lora_" in name}
    for layer in {name.rsplit(".lora_", 1)[0] for name in pairs}:

        def hook(_: Any, inputs: Any, output: torch.Tensor, layer: str = layer) -> torch.Tensor:
            low = inputs[0] @ pairs[f"{layer}.lora_A.weight"].T
            return output + low @ pairs[f"{layer}.lora_B.weight"].T

        unet.get_submodule(layer).register_forward_hook(hook)
    whole = tensors.keys() - pairs.keys()
    with torch.no_grad():
        for name in whole:
            unet.get_parameter(name).copy_(tensors[name])
    return pairs, whole
