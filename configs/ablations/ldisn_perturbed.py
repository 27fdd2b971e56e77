r"""LDIS-n that paints the vanilla pseudo mask and noise.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: its ablation of the
           target, M_v + noise. The noise's standard deviation is not in the sources we have; 0.4 is ours. That table's
           augmented row, 49.7, equals the row of post-masking alone in the table of masking, hence masking = "post"
           here.
Command:   python -m ldis_jax.main --config=configs/ablations/ldisn_perturbed.py --workdir=runs/ldisn_perturbed \
               --config.init.folder=pretrained/ldisn
Needs:     as configs/ldisn.py.
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; the paper reports mIoU 48.7 on COCO (augmented: 49.7).
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-n that paints the vanilla pseudo mask and noise."""
    config = base_config("ldisn")
    paper_data(config)
    config.task.target = "perturbed"
    config.task.mask_alpha = 0.0
    config.task.mask_noise = 0.4
    config.task.masking = "post"
    return config
