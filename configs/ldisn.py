r"""LDIS-n: many-step in-context segmentation with two-scale guidance, the paper's recipe.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: as configs/ldis1.py, with
           augmented pseudo masks (mask_alpha 0.4), conditioning dropout 0.05, and 20 DDPM steps to predict.
Command:   python -m ldis_jax.main --config=configs/ldisn.py --workdir=runs/ldisn \
               --config.init.folder=pretrained/ldisn
Needs:     as configs/ldis1.py; the UNet's conv_in is widened to 8 channels on load.
Hardware:  not measured by this project yet; the paper trained on 8 GPUs.
Expected:  not measured by this project yet; the paper reports mIoU 76.7 (PASCAL) and 52.6 (COCO).
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config(records: str = "data/records") -> ConfigDict:
    """The paper's LDIS-n, on the data sets below ``records``."""
    config = base_config("ldisn")
    paper_data(config, records)
    return config
