r"""LDIS-1 as the paper's first version trained it: LoRA of rank 4, a quarter of the batch, half the steps.

Paper:     first version of "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v1: LoRA of
           rank 4 on q, k, v and o of every attention layer, 80k steps, batch 16. 1,584,384 parameters are trained, the
           adapter included.
Command:   python -m ldis_jax.main --config=configs/ablations/ldis1_lora_rank4.py --workdir=runs/ldis1_lora_rank4 \
               --config.init.folder=pretrained/ldis1
Needs:     as configs/ldis1.py.
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; no figure of the paper's is known to us for this recipe on the four data sets.
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-1 with 1,584,384 trained parameters."""
    config = base_config("ldis1")
    paper_data(config)
    config.lora.rank = 4
    config.train_steps = 80_000
    config.batch_size = 16
    return config
