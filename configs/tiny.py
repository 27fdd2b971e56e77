"""TEMP"""

from ldis_jax.config import base_config, eval_set, procedural_source


def get_config():
    config = base_config("ldis1")
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
    config.train_steps = 500
    config.batch_size = 16
    config.optim.learning_rate = 1.5e-3
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 50
    config.optim.b2 = 0.99
    config.data.augment = False
    config.data.num_workers = 0
    config.data.sources.scenes = procedural_source("train")
    config.eval.sets.unseen = eval_set(procedural_source("unseen"), episodes=256)
    config.eval.sets.seen = eval_set(procedural_source("train"), episodes=256)
    config.eval.main_set = "unseen"
    config.eval.prompt_swap = 64
    config.log_every = 50
    config.eval_every = 500
    config.checkpoint_every = 500
    return config
