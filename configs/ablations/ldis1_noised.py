r"""LDIS-1 whose query latents are noised at a timestep t, as the paper's text has it.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2: z_t, the query's latents
           noised at t, goes into the UNet; its public code noises nothing and sets t = 0. The sources we have do not
           say which t; 100 is ours (z_t keeps 0.95 of z).
Command:   python -m ldis_jax.main --config=configs/ablations/ldis1_noised.py --workdir=runs/ldis1_noised \
               --config.init.folder=pretrained/ldis1
Needs:     as configs/ldis1.py.
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project; no figure of the paper's is known to us.
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.recipes.data import paper_data


def get_config() -> ConfigDict:
    """LDIS-1 on z_100."""
    config = base_config("ldis1")
    paper_data(config)
    config.task.noised = True
    config.task.timestep = 100
    return config
