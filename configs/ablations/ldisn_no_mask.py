r"""LDIS-n without masking: the prompt's picture alone says what is meant.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: the row that its ablation
           of eq. 1 leaves out.
Command:   python -m ldis_jax.main --config=configs/ablations/ldisn_no_mask.py --workdir=runs/ldisn_no_mask \
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
    """LDIS-n that never sees a prompt's mask."""
    config = base_config("ldisn")
    paper_data(config)
    config.task.masking = "none"
    return config
