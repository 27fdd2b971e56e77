r"""LDIS-1: one-step in-context segmentation, the paper's recipe.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2, and the authors' public
           recipe: 256 x 256, batch 64, 160k steps, AdamW, lr 1e-5 after 10k warm-up steps, latent-space loss.
Command:   python -m ldis_jax.main --config=configs/ldis1.py --workdir=runs/ldis1 \
               --config.init.folder=pretrained/ldis1
Needs:     Stable Diffusion 1.5 and Alpha-CLIP converted by python -m ldis_jax.convert (docs/weights.md); PASCAL
           VOC2012+SBD, COCO, DAVIS-16 and VSPW built by data/build.py with --out=data/records (data/README.md);
           where they lie elsewhere, --config=configs/ldis1.py:FOLDER.
Hardware:  not measured by this project yet; the paper trained on 8 GPUs.
Expected:  not measured by this project yet; the paper reports mIoU 85.3 (PASCAL) and 62.6 (COCO) for the mixture of
           four data sets.
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config(records: str = "data/records") -> ConfigDict:
    """The paper's LDIS-1, on the data sets below ``records``."""
    config = base_config("ldis1")
    paper_data(config, records)
    return config
