r"""A small LDIS-1 on real pictures: any VOC-layout folder, trained from scratch on a CPU.

Paper:     not an experiment of the paper; shows the whole path on photographs at a laptop's scale: 64 pixels, the
           shipped small towers (which only ever saw painted scenes), a UNet from scratch.
Command:   python -m ldis_jax.main --config=configs/voc_small.py:FOLDER --workdir=runs/voc_small \
               --config.eval.sets.val.manifest=FOLDER/episodes/val_1shot.json
Hardware:  2 CPU cores.
Time:      TIME
Expected:  RESULT
"""

from ml_collections import ConfigDict

from ldis_jax.config import eval_set, small_config, voc_source


def get_config(folder: str = "data/voc") -> ConfigDict:
    """Trains on ``train``; evaluates 200 episodes of ``val`` (HSNet's accumulation) unless a manifest is given."""
    config = small_config("ldis1")
    config.train_steps = 800
    config.data.sources.train = voc_source(folder, "train")
    config.eval.sets.val = eval_set(voc_source(folder, "val"), episodes=200, protocol="hsnet")
    config.eval_every = 400
    config.checkpoint_every = 400
    return config
