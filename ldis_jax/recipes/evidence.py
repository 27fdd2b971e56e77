"""What the experiments under ``configs/evidence/`` share: the same data, networks and budget for every variant.

docs/evidence.md has their results.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from ldis_jax.input_pipeline import ProceduralScenes
from ldis_jax.recipes.data import eval_set, procedural_source, record_source, voc_source
from ldis_jax.recipes.small import scenes_config, small_config

_ROOT = "runs/evidence"
_RECORDS = {"objects": "davis16", "semantic": "vspw"}
_WEIGHTS = {"images": 0.4, "objects": 0.5, "semantic": 0.2}
_IMAGES = {"images": 193, "objects": 190, "semantic": 60}  # of benchmarks/evidence/small_data.py
_STEPS = 500


def evidence_scenes(task: str) -> ConfigDict:
    """Painted scenes at 64 pixels, the shipped towers, a UNet from scratch.

    Judged on 256 episodes of unseen classes, 256 of seen ones, and 100 pictures with two objects.
    """
    config = scenes_config(task)
    config.eval.sets.seen = eval_set(procedural_source("train"), episodes=256)
    config.eval.prompt_swap = 100
    return _with_budget(config)


def evidence_mixture(*sources: str) -> ConfigDict:
    """Real pictures, fine-tuned from the shipped LDIS-1 in the role of Stable Diffusion; judged on all three sets.

    Half of the episodes stay painted scenes: of so few real pictures alone, a model forgets more than it learns.

    Args:
        sources: of "images" (a COCO subset), "objects" (DAVIS videos) and "semantic" (a CamVid video), with the
            paper's weights per sample; the one set of images has that of PASCAL.
    """
    config = small_config("ldis1")
    config.init.unet = {}
    config.optim.learning_rate = 1e-3

    def source(name: str, split: str, weight: float = 1.0) -> ConfigDict:
        if name == "images":
            return voc_source(f"{_ROOT}/data/coco_mini", split, weight)
        return record_source(f"{_ROOT}/data/{_RECORDS[name]}", split, weight)

    for name in sources:
        config.data.sources[name] = source(name, "train", _WEIGHTS[name])
    half = sum(_WEIGHTS[name] * _IMAGES[name] for name in sources) / ProceduralScenes.num_images
    config.data.sources.scenes = procedural_source("train", half)
    for name in _WEIGHTS:
        config.eval.sets[name] = eval_set(source(name, "val"), episodes=200)
    config.eval.sets.scenes = eval_set(procedural_source("unseen"), episodes=200)
    config.eval.main_set = "objects"
    config.eval.before = True
    return _with_budget(config)


def _with_budget(config: ConfigDict) -> ConfigDict:
    config.train_steps = config.eval_every = config.checkpoint_every = _STEPS
    return config
