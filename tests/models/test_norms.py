"""Norms where their details show: a small signal shows epsilon, a large mean the variance's form."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import cases

GROUP_NORMS = {
    "unet.up_blocks.1.resnets.1.norm2": 1e-5,
    "unet.conv_norm_out": 1e-5,
    "unet.mid_block.attentions.0.norm": 1e-6,
    "vae.encoder.down_blocks.1.resnets.0.norm1": 1e-6,
    "vae.decoder.up_blocks.1.resnets.0.norm2": 1e-6,
    "vae.decoder.mid_block.attentions.0.group_norm": 1e-6,
    "vae.encoder.conv_norm_out": 1e-6,
    "vae.decoder.conv_norm_out": 1e-6,
}
LAYER_NORMS = (
    *(f"unet.mid_block.attentions.0.transformer_blocks.0.norm{i}" for i in (1, 2, 3)),
    *(f"prompt_encoder.{name}" for name in ("ln_pre", "transformer.resblocks.0.ln_1", "transformer.resblocks.1.ln_2")),
)


def module(path: str):
    found: Any = cases.model("ldis1")
    for step in path.split("."):
        found = found[int(step)] if step.isdigit() else getattr(found, step)
    return found


def check(norm, x: np.ndarray, groups: int, eps: float) -> None:
    """Compares with the definition in float64; x is [B, H, W, C], normalised over H, W and each group's channels."""
    grouped = x.astype(np.float64).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    normed = ((grouped - mean) / np.sqrt(var + eps)).reshape(x.shape)
    expected = normed * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    assert np.abs(norm(jnp.asarray(x)) - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 2e-3), (30.0, 0.1)])
@pytest.mark.parametrize("path", GROUP_NORMS)
def test_group_norm(path, mean, std):
    norm, groups = module(path), 8 if path.startswith("unet") else 4
    check(norm, mean + std * cases.normal("norm", 2, 4, 4, norm.scale.shape[0]), groups, GROUP_NORMS[path])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 2e-3), (30.0, 0.1)])
@pytest.mark.parametrize("path", LAYER_NORMS)
def test_layer_norm(path, mean, std):
    norm = module(path)
    check(norm, mean + std * cases.normal("norm", 32, 1, 1, norm.scale.shape[0]), 1, 1e-5)
