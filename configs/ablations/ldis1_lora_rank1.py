r"""LDIS-1 with LoRA of rank 1 in place of training the whole UNet.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: its ablation of LDIS-1.
           Pairs on q, k, v and o of every attention layer; the adapter encoder_hid_proj is new and trained whole.
           986,496 parameters are trained, of 860 million.
Command:   python -m ldis_jax.main --config=configs/ablations/ldis1_lora_rank1.py --workdir=runs/ldis1_lora_rank1 \
               --config.init.folder=pretrained/ldis1
Needs:     as configs/ldis1.py.
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; the paper reports mIoU 53.0 on COCO (all of the UNet trained: 61.3).
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-1 with 986,496 trained parameters."""
    config = base_config("ldis1")
    paper_data(config)
    config.lora.rank = 1
    return config
