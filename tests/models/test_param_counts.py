"""Exact sizes of the real networks; nothing is allocated."""

from __future__ import annotations

import dataclasses
import functools

import jax
import pytest
from flax import nnx

from ldis_jax.models import AutoencoderConfig, LDISModel, PromptEncoderConfig, UNetConfig
from ldis_jax.models.ldis import TRAINABLE, ModelConfig

SD15_UNET = 859_520_964
ADAPTER = 1024 * 768 + 768


@functools.cache
def abstract(in_channels: int = 4, alpha: bool = True) -> LDISModel:
    unet = UNetConfig(in_channels=in_channels)
    return LDISModel.abstract(ModelConfig(unet, AutoencoderConfig(), PromptEncoderConfig(alpha=alpha)))


def count(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_unet_has_the_parameter_count_of_sd15():
    unet = dataclasses.replace(UNetConfig(), encoder_hid_dim=None)
    assert count(LDISModel.abstract(ModelConfig(unet=unet)).unet) == SD15_UNET


def test_unet_of_ldis1_adds_the_adapter():
    assert ADAPTER == 787_200
    assert count(abstract().unet) == SD15_UNET + ADAPTER


def test_unet_of_ldisn_adds_four_input_channels():
    assert count(abstract(8).unet) == SD15_UNET + ADAPTER + 4 * 9 * 320


def test_vae_has_the_parameter_count_of_sd15():
    assert count(abstract().vae) == 83_653_863


@pytest.mark.parametrize("alpha", [True, False])
def test_prompt_encoder_has_the_parameter_count_of_vit_l14(alpha):
    d, layers, patch, tokens = 1024, 24, 14, 257
    block = 4 * d * d + 4 * d + 8 * d * d + 5 * d + 2 * 2 * d  # attention, mlp, two norms
    stem = (3 + alpha) * patch**2 * d + d + tokens * d + 2 * d  # convolutions, class token, positions, ln_pre
    assert count(abstract(alpha=alpha).prompt_encoder) == stem + layers * block == 303_177_728 + 200_704 * alpha


def test_trainable_is_only_the_unet():
    _, trainable, *frozen = nnx.split(abstract(), TRAINABLE, ...)
    assert sum(leaf.size for leaf in jax.tree.leaves(trainable)) == SD15_UNET + ADAPTER
    assert sum(leaf.size for leaf in jax.tree.leaves(frozen)) == 83_653_863 + 303_378_432
