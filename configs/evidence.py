"""The paper's claims in miniature: the same data, networks and budget for every variant.

Paper:     its ablations; the list below has which.
Command:   python benchmarks/evidence/sweep.py --only VARIANT
           trains configs/evidence.py:VARIANT with each seed and measures it.
Needs:     the mixtures: small real sets (benchmarks/evidence/small_data.py), and the bundled LDIS-1.
Hardware:  2 CPU cores.
Time:      docs/evidence.md.
Expected:  docs/evidence.md.

On procedural scenes:
ldis1            LDIS-1 with both stages of masking: its default, what the other LDIS-1 variants are compared with.
ldis1_pre_mask   Pre-masking alone: the ablation of two-stage masking (eq. 1).
ldis1_post_mask  Post-masking alone: the same.
ldis1_no_mask    No masking, the prompt's image without its mask: the same.
ldis1_pixel      The pixel-space loss, taken behind the decoder: the ablation of the loss (eq. 5).
ldisn            LDIS-n with augmented pseudo masks, g = 0.4: its default, what the others are compared with.
ldisn_vanilla    The target is M_v (eq. 2): the ablation of the target.
ldisn_alpha20    g = 0.2: what g of the augmented pseudo mask does (eq. 4).
ldisn_alpha60    g = 0.6: the same.
ldisn_perturbed  The target is M_v and noise of standard deviation 0.4: the ablation of the target.
ldisn_epsilon    The UNet regresses the noise, the paper's own loss (eq. 9); the other LDIS-n variants here regress v.
ldis1_scored     As ldis1, with scores and their threshold fitted at the end of training; the paper has no scores.
ldis1_absent     The same, and one training episode in ten asks for a class that its query does not show.
ldisn_scored     As ldis1_scored, of LDIS-n.
ldisn_absent     As ldis1_absent, of LDIS-n.

On mixtures with real images, LDIS-1:
joint            Images and videos together, everything trained: the paper's mixture, its ablations of data and of LoRA.
only_images      Images alone: the ablation of joint training.
only_objects     Videos with one object alone: the same.
only_semantic    A video with labels of all pixels alone: the same.
joint_lora1      As joint, by LoRA of rank 1: the ablation of LoRA against full training.
joint_lora4      By LoRA of rank 4: the same.
joint_lora16     By LoRA of rank 16: the same.
"""

from ml_collections import ConfigDict

from ldis_jax.config import check_variant
from ldis_jax.input_pipeline import ProceduralScenes
from ldis_jax.recipes.data import eval_set, procedural_source, record_source, voc_source
from ldis_jax.recipes.small import scenes_config, small_config

_SCORED = {"eval.calibrate_by": "calibration"}
_SCENES = {
    "ldis1": {},
    "ldis1_pre_mask": {"task.masking": "pre"},
    "ldis1_post_mask": {"task.masking": "post"},
    "ldis1_no_mask": {"task.masking": "none"},
    "ldis1_pixel": {"task.loss_space": "pixel"},
    "ldisn": {},
    "ldisn_vanilla": {"task.mask_alpha": 0.0},
    "ldisn_alpha20": {"task.mask_alpha": 0.2},
    "ldisn_alpha60": {"task.mask_alpha": 0.6},
    "ldisn_perturbed": {"task.target": "perturbed", "task.mask_alpha": 0.0, "task.mask_noise": 0.4},
    "ldisn_epsilon": {"init.prediction_type": "epsilon"},
    "ldis1_scored": _SCORED,
    "ldis1_absent": _SCORED | {"data.absent": 0.1},
    "ldisn_scored": _SCORED,
    "ldisn_absent": _SCORED | {"data.absent": 0.1},
}
_MIXTURES = {
    "joint": {},
    "only_images": {},
    "only_objects": {},
    "only_semantic": {},
    "joint_lora1": {"lora.rank": 1},
    "joint_lora4": {"lora.rank": 4},
    "joint_lora16": {"lora.rank": 16},
}
VARIANTS = {**_SCENES, **_MIXTURES}

_ROOT = "runs/evidence/data"
_SETS = ("images", "objects", "semantic")  # a COCO subset, DAVIS videos, a CamVid video
_RECORDS = {"objects": "davis16", "semantic": "vspw"}
# The paper's, per sample; the one set of images has that of PASCAL.
_WEIGHTS = {"images": 0.4, "objects": 0.5, "semantic": 0.2}
_IMAGES = {"images": 193, "objects": 190, "semantic": 60}  # of benchmarks/evidence/small_data.py


def get_config(variant: str = "") -> ConfigDict:
    """A variant at the budget of the experiments."""
    check_variant("configs/evidence.py", variant, VARIANTS)
    config = _scenes(variant) if variant in _SCENES else _mixture(variant.removeprefix("only_"))
    config.train_steps = config.eval_every = config.checkpoint_every = 500
    config.update_from_flattened_dict(VARIANTS[variant])
    return config


def _scenes(variant: str) -> ConfigDict:
    """Procedural scenes at 64 pixels, the bundled encoders, a UNet from scratch.

    Judged on 256 episodes of unseen classes, and on 256 of seen ones and 100 images with two objects. Where
    scores are fitted, 256 other episodes of seen classes, half of them absent, take the place of the latter.
    """
    config = scenes_config(variant.partition("_")[0])
    if "eval.calibrate_by" in VARIANTS[variant]:
        config.eval.sets.calibration = eval_set(procedural_source("train"), episodes=256, seed=1000, absent=0.5)
        return config
    config.eval.sets.seen = eval_set(procedural_source("train"), episodes=256)
    config.eval.prompt_swap = 100
    return config


def _mixture(alone: str) -> ConfigDict:
    """Real images, fine-tuned from the bundled LDIS-1 in the role of Stable Diffusion; judged on all sets.

    Half of the episodes stay procedural scenes: of so few real images alone, a model forgets more than it learns.
    ``alone`` is the one set to train on; anything else stands for all of them.
    """
    config = small_config("ldis1")
    config.init.unet = {}
    config.optim.learning_rate = 1e-3
    sources = (alone,) if alone in _SETS else _SETS
    for name in sources:
        config.data.sources[name] = _source(name, "train", _WEIGHTS[name])
    half = sum(_WEIGHTS[name] * _IMAGES[name] for name in sources) / ProceduralScenes.num_images
    config.data.sources.scenes = procedural_source("train", half)
    for name in _SETS:
        config.eval.sets[name] = eval_set(_source(name, "val"), episodes=200)
    config.eval.sets.scenes = eval_set(procedural_source("unseen"), episodes=200)
    config.eval.main_set = "objects"
    config.eval.before = True
    return config


def _source(name: str, split: str, weight: float = 1.0) -> ConfigDict:
    if name == "images":
        return voc_source(f"{_ROOT}/coco_mini", split, weight)
    return record_source(f"{_ROOT}/{_RECORDS[name]}", split, weight)
