"""Small networks that train from scratch on a CPU."""

from __future__ import annotations

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import eval_set, procedural_source


def small_config(task: str) -> ConfigDict:
    """The common part of the small configs: 64 pixels, bundled frozen networks, a UNet from scratch, minutes on a CPU.

    The UNet has SD 1.5's blocks at two levels, with attention where latents are 8 x 8. The data are up to the file.
    """
    config = base_config(task)
    config.task.image_size = 64
    config.init.folder = "tiny"
    config.init.unet = {
        "block_out_channels": (48, 96),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": 96,
        "norm_num_groups": 8,
        "sample_size": 16,
    }
    config.cpu_devices = 2
    config.batch_size = 16
    config.optim.learning_rate = 1.5e-3
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 50
    config.optim.b2 = 0.99
    config.data.num_workers = 0
    config.eval.batch_size = 32
    config.log_every = 20
    return config


def scenes_config(task: str, episodes: int = 256) -> ConfigDict:
    """:func:`small_config` on painted scenes, judged on ``episodes`` of classes that training does not show.

    LDIS-n regresses v and predicts with DDIM in 10 steps and a milder guidance, as suits a UNet that is small and
    starts from scratch (docs/evidence.md, claims 3a and 5).
    """
    config = small_config(task)
    if task == "ldisn":
        config.task.num_steps = 10
        config.task.sampler = "ddim"
        config.task.prompt_guidance_scale = 3.0
        # From scratch, epsilon says next to nothing about the mask where noise hides it, which is where it is learned.
        config.init.prediction_type = "v_prediction"
    config.data.sources.scenes = procedural_source("train")
    config.eval.sets.unseen = eval_set(procedural_source("unseen"), episodes=episodes)
    config.eval.main_set = "unseen"
    return config
