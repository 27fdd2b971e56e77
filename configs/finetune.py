r"""Fine-tuning on a folder of your own images and masks: see docs/finetune.md.

Paper:     not an experiment of the paper. The task and its image size are those of the model folder,
           but for the tile, which follows from the masks.
Command:   python -m ldis_jax.main --config=configs/finetune.py:lora --config.data.folder=my_images \
               --config.init.folder=pretrained/ldis1 --workdir=runs/mine
           ":lora" trains low-rank pairs of rank 16 (--config.lora.rank=...), ":full" or nothing all of the UNet;
           ":small" is for small models on a CPU, unless told otherwise the bundled one for photographs.
Needs:     images with masks (python -m ldis_jax.check_data --data=my_images says whether they will do), and a model
           folder: of python -m ldis_jax.convert, or of a training run.
Hardware:  :lora: two steps of full size on 2 CPU cores, 7.9 GB; :full: not run at full size by this project.
           :small: 2 CPU cores.
Time:      :small: 1,461 seconds of CPU time for 35 photographs of many small objects, 1,331 for 51: some 12 minutes.
Expected:  :small: of 35 photographs of mushrooms, seven of them held out: mIoU from 76.1 to 82.5 (copy the prompt's
           mask: 21.2, all foreground: 36.6, a U-Net in the same seconds: 81.9).
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config, check_variant
from ldis_jax.recipes.data import folder_data


def get_config(method: str = "full") -> ConfigDict:
    """Trains "full", "lora" or "small" on ``data.folder``; a share of its images is held out to evaluate."""
    check_variant("configs/finetune.py", method, ("full", "lora", "small"))
    config = base_config("ldis1")
    config.task = ConfigDict()
    config.init.folder = "small" if method == "small" else "pretrained/ldis1"
    folder_data(config, episodes=24 if method == "small" else 48)  # tiles of an image take seconds each on a CPU
    config.data.num_workers = 0
    config.train_steps = 1000
    config.batch_size = config.eval.batch_size = 8
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 50
    config.step.grad_dtype = config.optim.moment_dtype = "bfloat16"
    config.log_every = 20
    config.eval_every = config.checkpoint_every = 250
    config.eval.patience = 3
    if method == "lora":
        config.lora.rank = 16
        config.lora.also = ("encoder_hid_proj", "conv_in")  # of a converted LDIS-n conv_in does not see the query yet
        config.optim.learning_rate = 1e-4
    if method == "small":
        config.cpu_devices = 2
        config.train_steps = 120
        config.batch_size = config.eval.batch_size = 8
        config.optim.learning_rate = 4e-4
        config.optim.warmup_steps = 20
        config.data.rescale = (0.7, 1.4)
        config.step.ema_decay = 0.97
        config.eval.pictures = 4
        config.optim.b2 = 0.99
        config.step.grad_dtype = config.optim.moment_dtype = "float32"
        config.eval_every = config.checkpoint_every = 40
    return config
