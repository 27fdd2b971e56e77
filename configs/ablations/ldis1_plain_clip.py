r"""LDIS-1 with plain CLIP as the prompt encoder, which takes no alpha: post-masking alone.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: its ablation without
           Alpha-CLIP, on LDIS-1.
Command:   python -m ldis_jax.main --config=configs/ablations/ldis1_plain_clip.py --workdir=runs/ldis1_plain_clip \
               --config.init.folder=pretrained/ldis1_plain_clip
Needs:     as configs/ldis1.py, with a prompt encoder that python -m ldis_jax.convert made of --clip alone
           (docs/weights.md).
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; no figure of the paper's is known to us for LDIS-1.
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-1 with post-masking alone, all that plain CLIP can do."""
    config = base_config("ldis1")
    paper_data(config)
    config.task.masking = "post"
    return config
