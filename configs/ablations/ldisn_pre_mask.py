r"""LDIS-n with pre-masking alone: the tower sees the prompt's mask, cross-attention does not.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: its ablation of eq. 1.
Command:   python -m ldis_jax.main --config=configs/ablations/ldisn_pre_mask.py --workdir=runs/ldisn_pre_mask \
               --config.init.folder=pretrained/ldisn
Needs:     as configs/ldisn.py.
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; the paper reports mIoU 43.8 on COCO (both stages: 52.6).
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-n without post-masking."""
    config = base_config("ldisn")
    paper_data(config)
    config.task.masking = "pre"
    return config
