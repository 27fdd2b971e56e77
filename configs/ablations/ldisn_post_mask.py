r"""LDIS-n with post-masking alone: cross-attention sees the prompt's mask, the tower does not.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: its ablation of eq. 1.
Command:   python -m ldis_jax.main --config=configs/ablations/ldisn_post_mask.py --workdir=runs/ldisn_post_mask \
               --config.init.folder=pretrained/ldisn
Needs:     as configs/ldisn.py.
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; the paper reports mIoU 49.7 on COCO (both stages: 52.6).
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-n without pre-masking."""
    config = base_config("ldisn")
    paper_data(config)
    config.task.masking = "post"
    return config
