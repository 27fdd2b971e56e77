r"""A small LDIS-1 on real images: any VOC-layout folder, fine-tuned on a CPU.

Paper:     not an experiment of the paper; shows the whole path on photographs at a laptop's scale, 64 pixels.
           Starts from the main example's model, whose networks only ever saw painted scenes.
Command:   python -m ldis_jax.main --config=configs/voc_small.py:FOLDER --workdir=runs/voc_small \
               --config.eval.sets.val.manifest=FOLDER/episodes/val_1shot.json
Needs:     runs/tiny/model, which the main example (configs/tiny.py) leaves.
Hardware:  2 CPU cores.
Time:      7 minutes beside other work on the same cores.
Expected:  little: 195 photographs of 80 classes at 64 pixels teach it where objects tend to be, not what they are. On
           194 frozen episodes of a small COCO subset mIoU 1.3 and FB-IoU 44.4 (copy the prompt's mask: 6.2 and 44.0).
           From scratch, 800 steps: 0.5 and 44.0.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.data import eval_set, voc_source
from ldis_jax.recipes.small import small_config


def get_config(folder: str = "data/voc") -> ConfigDict:
    """Trains on ``train``; evaluates 200 episodes of ``val`` (HSNet's accumulation) unless a manifest is given."""
    config = small_config("ldis1")
    config.init.folder = "runs/tiny/model"
    config.init.unet = {}
    config.train_steps = 400
    config.optim.learning_rate = 5e-4
    config.data.sources.train = voc_source(folder, "train")
    config.eval.sets.val = eval_set(voc_source(folder, "val"), episodes=200, protocol="hsnet")
    config.eval_every = 200
    config.checkpoint_every = 200
    return config
