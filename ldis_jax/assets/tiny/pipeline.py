"""LDIS in torch: in-context segmentation by latent diffusion, as a pipeline of diffusers.

Written by ldis_jax (Apache-2.0); method: arXiv 2403.09616.

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    out = pipe(query, prompts=[(image, mask), ...])  # PIL images; of a mask, the brighter half of its range is object
    out.mask, out.probability, out.residual
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.utils import BaseOutput

SAMPLERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}


@dataclasses.dataclass
class LDISOutput(BaseOutput):
    """The result for a query of height H and width W.

    Attributes:
        mask: bool [H, W], where the object is.
        probability: float32 [H, W].
        residual: float32 [H, W, 3], R: what the decoder renders, without the query's share.
    """

    mask: np.ndarray
    probability: np.ndarray
    residual: np.ndarray


class LDISPipeline(DiffusionPipeline):
    """LDIS-1 (one step) or LDIS-n (many steps).

    Args:
        unet: of 4 (LDIS-1) or 8 (LDIS-n) input channels, and those of the prompt encoder, if it describes the query.
        vae: the autoencoder.
        prompt_encoder: Alpha-CLIP's image encoder, or what takes its place.
        scheduler: the noise schedule.
        ldis: the method's hyper-parameters, as in ``ldis_config.json``.
    """

    model_cpu_offload_seq = "prompt_encoder->unet->vae"

    def __init__(
        self, unet, vae, prompt_encoder, scheduler, ldis=None
    ):  # diffusers takes what has no default for a network
        super().__init__()
        self.register_modules(unet=unet, vae=vae, prompt_encoder=prompt_encoder, scheduler=scheduler)
        self.register_to_config(ldis=dict(ldis))

    @torch.no_grad()
    def __call__(self, query, prompts, *, generator=None, **options):
        """Segments the prompted object in one image.

        Args:
            query: PIL image, or uint8 array [H, W, 3].
            prompts: pairs (image, mask) of one class, of any sizes.
            generator: of LDIS-n's noise.
            **options: as of :meth:`predict`.
        """
        size, tile = self.config.ldis["image_size"], self.config.ldis.get("tile", 1.0)
        images, masks = [], []
        for image, mask in prompts:
            grey = np.asarray(mask.convert("L") if hasattr(mask, "convert") else mask)
            shown = grey > grey.max() / 2
            place = _crop(shown, tile)
            images.append(self._fit(np.asarray(_rgb(image))[place], size))
            masks.append(self._fit(shown[place][..., None].astype(np.uint8), size, "nearest") == 1)
        prompted = torch.stack(images)[None], torch.cat(masks)[None]
        query = np.asarray(_rgb(query))
        total, weights = torch.zeros(3, *query.shape[:2]), torch.zeros(1, *query.shape[:2])
        for place in _tiles(*query.shape[:2], tile):
            part = query[place]
            r = self.predict(self._fit(part, size)[None], *prompted, generator=generator, **options)
            h, w = _fitted(*part.shape[:2], size)
            r = F.interpolate(r[:, :, :h, :w].float(), part.shape[:2], mode="bilinear", align_corners=False)[0]
            weight = _ramp(part.shape[0])[:, None] * _ramp(part.shape[1])
            total[(slice(None), *place)] += r.cpu() * weight
            weights[(slice(None), *place)] += weight
        r = total / weights
        logit = r[1] - r[0]
        residual = r.permute(1, 2, 0).cpu().numpy()
        return LDISOutput((logit > 0).cpu().numpy(), torch.sigmoid(logit).cpu().numpy(), residual)

    @torch.no_grad()
    def predict(
        self,
        query,
        images,
        masks,
        *,
        noise=None,
        generator=None,
        num_inference_steps=None,
        image_guidance_scale=None,
        prompt_guidance_scale=None,
    ):
        """R, [B, 3, S, S], of squares of the network's own size.

        Args:
            query: [B, 3, S, S] in [-1, 1].
            images: of K prompts a query, [B, K, 3, S, S] in [-1, 1].
            masks: [B, K, S, S], true on the object.
            noise: [B, 4, s, s] in place of the first draw.
            generator: of LDIS-n's noise.
            num_inference_steps: of LDIS-n; by default, as the next two, the model's own.
            image_guidance_scale: s_q of eq. 10.
            prompt_guidance_scale: s_t of eq. 10.
        """
        ldis, dtype, device = self.config.ldis, self.unet.dtype, self._execution_device
        query, images, masks = (x.to(device, dtype) for x in (query, images, masks))
        latents = self.vae.encode(query)
        latents = latents.latent_dist.mode() if hasattr(latents, "latent_dist") else latents.latents
        tokens, mask = self._instruction(images, masks)
        if noise is None and (ldis["task"] == "ldisn" or ldis.get("noised")):
            noise = torch.randn(
                latents.shape, generator=generator, device="cpu" if generator is None else generator.device
            )
        noise = noise if noise is None else noise.to(device, dtype)
        if ldis["task"] == "ldis1":
            z = latents * self._scale
            if ldis.get("noised"):
                z = self.scheduler.add_noise(z, noise, torch.tensor([ldis["timestep"]], device=device))
            if hasattr(self.prompt_encoder, "describe_query"):
                size = self.prompt_encoder.image_size
                shown = F.interpolate(query, size, mode="bilinear", align_corners=False)
                described = self.prompt_encoder.describe_query(shown, tokens)
                described = F.interpolate(described, z.shape[2:], mode="bilinear", align_corners=False)
                z = torch.cat([z, described], dim=1)
            z = self.unet(z, ldis["timestep"], tokens, encoder_attention_mask=mask).sample
        else:
            scales = (
                ldis["image_guidance_scale"] if image_guidance_scale is None else image_guidance_scale,
                ldis["prompt_guidance_scale"] if prompt_guidance_scale is None else prompt_guidance_scale,
            )
            steps = ldis["num_steps"] if num_inference_steps is None else num_inference_steps
            z = self._denoise(noise, latents, tokens, mask, steps, scales, generator)
        rendered = self.vae.decode(z / self._scale).sample
        bias = rendered.new_tensor([-0.5, 0.5, 0.0]) * ldis.get("object_bias", 0.0)
        return rendered - self._share * query + bias[:, None, None]

    def _denoise(self, z, latents, tokens, mask, steps, scales, generator):
        """LDIS-n: eq. 10 over a sampler's steps."""
        ldis, (image_scale, prompt_scale) = self.config.ldis, scales
        spacing = ldis.get("timestep_spacing", "schedule")
        changed = {} if spacing == "schedule" else {"timestep_spacing": spacing}
        scheduler = SAMPLERS[ldis["sampler"]].from_config(self.scheduler.config, **changed)
        scheduler.set_timesteps(steps, device=z.device)
        null = self._null(tokens.shape[0], tokens.shape[1])
        draws = {"generator": generator} if ldis["sampler"] == "ddpm" else {}
        for i, t in enumerate(self.progress_bar(scheduler.timesteps)):
            inputs = torch.cat([z, latents], dim=1)
            found = self.unet(inputs, t, tokens, encoder_attention_mask=mask).sample
            if ldis.get("guidance_start", 0) <= i / steps < ldis.get("guidance_end", 1):
                unprompted = self.unet(inputs, t, null, encoder_attention_mask=mask).sample
                nothing = torch.cat([z, torch.zeros_like(latents)], dim=1)
                neither = self.unet(nothing, t, null, encoder_attention_mask=mask).sample
                found = neither + image_scale * (unprompted - neither) + prompt_scale * (found - unprompted)
            z = scheduler.step(found, t, z, **draws).prev_sample
        return z

    def _instruction(self, images, masks):
        """Two-stage masking (eq. 1): tokens [B, K*L, D], and 1 for those on the object, [B, K*L]."""
        encoder, masking = self.prompt_encoder, self.config.ldis.get("masking", "both")
        batch, count = masks.shape[:2]
        resized = F.interpolate(images.flatten(0, 1), encoder.image_size, mode="bilinear", align_corners=False)
        objects = masks.flatten(0, 1)[:, None]
        everywhere = torch.ones_like(objects)
        shown = objects if masking in ("both", "pre") else everywhere
        alpha = (F.interpolate(shown, encoder.image_size, mode="nearest") - 0.5) / 0.26
        tokens = encoder(resized, alpha).unflatten(0, (batch, count)).flatten(1, 2)
        read = objects if masking in ("both", "post") else everywhere
        return tokens, F.interpolate(read, encoder.grid, mode="nearest").reshape(batch, -1)

    def _null(self, batch, length):
        """LDIS-n's null instruction: grey images that are object everywhere, as many as there are prompts."""
        encoder = self.prompt_encoder
        blank = torch.zeros(
            1, 3, encoder.image_size, encoder.image_size, device=self._execution_device, dtype=encoder.dtype
        )
        tokens = encoder(blank, torch.full_like(blank[:, :1], (1 - 0.5) / 0.26))
        return tokens.repeat(batch, length // tokens.shape[1], 1)

    @property
    def _scale(self):
        return getattr(self.vae.config, "scaling_factor", 1.0)

    @property
    def _share(self):
        """How much of the query the decoder renders beside the mask (g of eq. 4)."""
        alpha, target = self.config.ldis["mask_alpha"], self.config.ldis.get("target", "augmented")
        return {"augmented": alpha, "perturbed": 0.0, "added": 1.0 / (alpha or 1.0)}[target]

    @staticmethod
    def _fit(array, size, mode="bilinear"):
        """uint8 [H, W, C] -> [C, S, S]: the long side to S, in [-1, 1], padded with 0; "nearest" keeps values."""
        height, width = array.shape[:2]
        h, w = _fitted(height, width, size)
        x = torch.from_numpy(np.array(array)).permute(2, 0, 1)[None].float()
        smooth = {"align_corners": False} if mode == "bilinear" else {}
        x = F.interpolate(x, (h, w), mode=mode, **smooth)
        x = x.round() / 127.5 - 1 if mode == "bilinear" else x
        return F.pad(x, (0, size - w, 0, size - h))[0]


def _side(height, width, tile):
    return max(round(tile * max(height, width)), 16)


def _crop(mask, tile):
    """The square of a prompt that shows most of its object, as slices; see ``transforms.crop_prompt`` of ldis_jax."""
    height, width = mask.shape
    if tile == 1:
        return np.s_[:, :]
    side = _side(height, width, tile)
    h, w = min(side, height), min(side, width)
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    count = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    score = np.minimum(count, h * w * 3 // 2 - count)
    best = np.argwhere(score == score.max())
    top, left = best[np.abs(best - best.mean(0)).sum(1).argmin()]
    return np.s_[top : top + h, left : left + w]


def _tiles(height, width, tile):
    """Squares that overlap by a quarter or more, as slices; of tile 1 the whole image."""
    if tile == 1:
        return [np.s_[:, :]]
    side = _side(height, width, tile)
    sides, starts = (min(side, height), min(side, width)), []
    for length, part in zip((height, width), sides, strict=True):
        overlap = part // 4
        count = -(-(length - overlap) // (part - overlap))
        starts.append([round(i * (length - part) / max(count - 1, 1)) for i in range(count)])
    return [np.s_[top : top + sides[0], left : left + sides[1]] for top in starts[0] for left in starts[1]]


def _ramp(length):
    """How much a tile is trusted from its borders to its middle."""
    place = torch.arange(length) + 0.5
    return torch.minimum(place, length - place) / (length / 2)


def _fitted(height, width, size):
    """The size of an image whose long side is ``size``."""
    scale = size / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _rgb(image):
    return image.convert("RGB") if hasattr(image, "convert") else image
