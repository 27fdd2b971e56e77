"""Torch's side of every comparison in ``cases``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ldis_jax.weights import save_model
from tests.reference import cases
from tests.reference.torch_ldis import TorchLDIS, nchw, nhwc


def references(folder: Path) -> dict[str, TorchLDIS]:
    """The three models of ``cases``, written by ``save_model`` and read by torch."""
    torch.set_num_threads(1)  # so small that threads only wait for each other
    loaded = {}
    for name, task in cases.TASKS.items():
        save_model(folder / name, task, cases.model(name))
        loaded[name] = TorchLDIS(folder / name)
    return loaded


def torch_output(case: str, models: dict[str, TorchLDIS]) -> np.ndarray:
    """Torch's result of a case."""
    match case.split("/"):
        case "loss", name:
            return _loss(name, models[name]).detach().numpy()
        case "gradient", name:
            return _gradient_norms(name, models[name])
        case "R", "ldisn", sampler, k:
            options = cases.LDISN_OPTIONS | cases.sampling_noise() | {"sampler": sampler}
            return models["ldisn"].predict_ldisn(cases.query_image(), *cases.prompts(int(k)), **options)
        case "R", name, k:
            noise = cases.prediction_noise(name) if cases.TASKS[name].noised else None
            return models[name].predict_ldis1(cases.query_image(), *cases.prompts(int(k)), noise=noise)
    with torch.no_grad():
        return _network_output(case, models)


def _network_output(case: str, models: dict[str, TorchLDIS]) -> np.ndarray:
    match case.split("/"):
        case "tokens", "null":
            return models["ldis1"].null_tokens(1, 2).numpy()
        case "tokens", name:
            return models[name].instruction_tokens(*cases.prompts(3))[0].numpy()
        case "unet", name, mask:
            rows = cases.UNET_ROWS[mask]
            latents, timesteps, tokens, token_mask = (torch.from_numpy(x[rows]) for x in cases.unet_inputs(name))
            sample = models[name].unet(
                nchw(latents.numpy()),
                timesteps,
                tokens,
                encoder_attention_mask=None if mask == "unmasked" else token_mask,
            )
            return nhwc(sample.sample)
        case "vae", name, "decode":
            return nhwc(models[name].vae.decode(nchw(cases.normal("vae", 2, 8, 8, 4))).sample)
        case "vae", name, part:
            return nhwc(getattr(models[name].vae.encode(nchw(cases.query_image())).latent_dist, part))
    raise KeyError(case)


def _loss(name: str, model: TorchLDIS) -> torch.Tensor:
    batch, draws = cases.training_batch(), cases.training_draws(name)
    return getattr(model, f"loss_{cases.TASKS[name].name}")(batch, **draws)


def _gradient_norms(name: str, model: TorchLDIS) -> np.ndarray:
    model.unet.zero_grad()
    _loss(name, model).backward()
    each = torch.stack([parameter.grad.norm() for _, parameter in sorted(model.unet.named_parameters())])
    return np.array([each.norm(), *each])
