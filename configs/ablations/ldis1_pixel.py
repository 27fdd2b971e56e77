r"""LDIS-1 with the pixel-space loss: the decoder is part of what is trained through.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: eq. 5 in place of eq. 6,
           its ablation of LDIS-1. The frozen decoder's blocks are computed again in the backward pass.
Command:   python -m ldis_jax.main --config=configs/ablations/ldis1_pixel.py --workdir=runs/ldis1_pixel \
               --config.init.folder=pretrained/ldis1
Needs:     as configs/ldis1.py.
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; the paper reports mIoU 55.6 on COCO (latent-space loss: 61.3).
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-1 under eq. 5."""
    config = base_config("ldis1")
    paper_data(config)
    config.task.loss_space = "pixel"
    return config
