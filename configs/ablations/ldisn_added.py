r"""LDIS-n with the first version's augmentation, M_v + I_q / alpha.

Paper:     first version of "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v1. Its
           alpha is not in the sources we have; 1.5 is ours: mask and picture stand to each other as in eq. 4 with g =
           0.4. The target lies in [-1.67, 1.67], outside of what the autoencoder was trained on.
Command:   python -m ldis_jax.main --config=configs/ablations/ldisn_added.py --workdir=runs/ldisn_added \
               --config.init.folder=pretrained/ldisn
Needs:     as configs/ldisn.py.
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; no figure of the paper's is known to us.
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-n that paints M_v + I_q / 1.5."""
    config = base_config("ldisn")
    paper_data(config)
    config.task.target = "added"
    config.task.mask_alpha = 1.5
    return config
