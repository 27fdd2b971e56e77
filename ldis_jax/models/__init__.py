"""The three networks: denoising UNet, autoencoder and prompt encoder (Flax NNX, NHWC)."""

from ldis_jax.models.alpha_clip import AlphaCLIP
from ldis_jax.models.config import AutoencoderConfig, AutoencoderTinyConfig, PromptEncoderConfig, UNetConfig
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.lora import LoRA
from ldis_jax.models.unet import UNet2DConditionModel
from ldis_jax.models.vae import AutoencoderKL
from ldis_jax.models.vae_tiny import AutoencoderTiny

__all__ = [
    "AlphaCLIP",
    "AutoencoderConfig",
    "AutoencoderKL",
    "AutoencoderTiny",
    "AutoencoderTinyConfig",
    "LDISModel",
    "LoRA",
    "PromptEncoderConfig",
    "UNet2DConditionModel",
    "UNetConfig",
]
