"""Config files: what is read, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ldis_jax.errors import LDISError
from ldis_jax.models import AutoencoderConfig, PromptEncoderConfig, UNetConfig
from tests.reference import cases

# unet/config.json and vae/config.json of Stable Diffusion 1.5.
SD15_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SD15_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def test_config_defaults_are_sd15_and_vit_l14():
    assert UNetConfig.from_dict(SD15_UNET) == UNetConfig(encoder_hid_dim=None)
    assert AutoencoderConfig.from_dict(SD15_VAE) == AutoencoderConfig()
    tower = {"image_size": 224, "patch_size": 14, "width": 1024, "layers": 24, "heads": 16, "alpha": True}
    assert PromptEncoderConfig.from_dict(tower) == PromptEncoderConfig()
    assert PromptEncoderConfig().num_tokens == 256
    assert AutoencoderConfig().downscale == 8


@pytest.mark.parametrize("name", cases.CONFIGS)
def test_config_survives_its_own_file(name):
    config = cases.CONFIGS[name]
    for part in (config.unet, config.vae, config.prompt_encoder):
        assert type(part).from_dict(part.to_dict()) == part


@pytest.mark.parametrize("kind", [UNetConfig, AutoencoderConfig, PromptEncoderConfig])
def test_config_refuses_an_unknown_key(kind):
    with pytest.raises(LDISError, match=r"folder/config\.json.*surprise=1"):
        kind.from_dict({"surprise": 1}, "folder/config.json")


@pytest.mark.parametrize(
    "change",
    [
        {"use_linear_projection": True},
        {"flip_sin_to_cos": False},
        {"freq_shift": 1},
        {"downsample_padding": 0},
        {"num_attention_heads": 16},
        {"encoder_hid_dim_type": "image_proj"},
        {"mid_block_type": None},
        {"down_block_types": ["AttnDownBlock2D"] * 4},
        {"up_block_types": ["UpBlock2D"] * 3},
        {"attention_head_dim": [8, 8]},
        {"attention_head_dim": 7},
        {"norm_num_groups": 33},
    ],
)
def test_unet_config_refuses_what_is_not_supported(change):
    with pytest.raises(LDISError):
        UNetConfig.from_dict(SD15_UNET | change)


@pytest.mark.parametrize(
    "change",
    [
        {"shift_factor": 0.1},
        {"use_quant_conv": False},
        {"down_block_types": ["AttnDownEncoderBlock2D"]},
        {"norm_num_groups": 3},
    ],
)
def test_autoencoder_config_refuses_what_is_not_supported(change):
    with pytest.raises(LDISError):
        AutoencoderConfig.from_dict(SD15_VAE | change)


@pytest.mark.parametrize("change", [{"patch_size": 15}, {"heads": 7}])
def test_prompt_encoder_config_refuses_what_is_not_supported(change):
    with pytest.raises(LDISError):
        PromptEncoderConfig.from_dict(change)
