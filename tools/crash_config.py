"""A run of seconds on a CPU for ``tools/kill_test.py`` and the tests: a mixture, a save every third step.

With CRASH_LOG in the environment every process appends one line a batch it has made, "step process hash hash ...", a
hash an episode: what the loader gave, whatever became of the process afterwards.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldis_jax.input_pipeline import loader
from ldis_jax.recipes.data import eval_set, procedural_source
from ldis_jax.recipes.small import small_config


def get_config() -> ConfigDict:
    """The smallest UNet over the shipped towers."""
    if log := os.environ.get("CRASH_LOG"):
        _record(log)
    config = small_config("ldis1")
    config.init.unet = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": 96,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    config.train_steps, config.batch_size, config.optim.warmup_steps = 40, 8, 2
    config.data.augment = False
    config.data.sources.scenes = procedural_source("train", weight=0.7)
    config.data.sources.others = procedural_source("unseen", weight=0.3)
    config.eval.sets.unseen = eval_set(procedural_source("unseen"), episodes=4)
    config.eval.batch_size = 4
    config.eval.pictures = 0
    config.log_every, config.checkpoint_every, config.eval_every = 1, 3, 1000
    return config


def _record(path: str) -> None:
    make = loader.TrainLoader.__next__

    def recorded(self: loader.TrainLoader) -> dict[str, np.ndarray]:
        step = self.get_state()["step"]
        batch = make(self)
        hashes = [_hash({name: array[i] for name, array in batch.items()}) for i in range(len(batch["query_mask"]))]
        line = " ".join([str(step), os.environ.get("JAX_PROCESS_ID", "0"), *hashes])
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        return batch

    loader.TrainLoader.__next__ = recorded  # type: ignore[method-assign]


def _hash(episode: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(episode):
        digest.update(np.ascontiguousarray(episode[name]).tobytes())
    return digest.hexdigest()[:16]
