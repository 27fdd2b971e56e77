r"""LDIS-1: one-step in-context segmentation, the paper's recipe.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2, section 8 of the public
           recipe: 256 x 256, batch 64, 160k steps, AdamW, lr 1e-5 after 10k warm-up steps, latent-space loss.
Command:   python -m ldis_jax.main --config=configs/ldis1.py --workdir=runs/ldis1 \
               --config.data.sources.pascal.root=... --config.data.sources.coco.root=...
Needs:     a folder with Stable Diffusion 1.5's unet/ and vae/, and Alpha-CLIP ViT-L/14 in prompt_encoder/
           (--config.init.folder); PASCAL VOC2012+SBD and COCO in the layout of data/README.md.
Hardware:  not measured by this project yet; the paper trained on 8 GPUs.
Expected:  not measured by this project yet; the paper reports mIoU 85.3 (PASCAL) and 62.6 (COCO) for the mixture of
           four data sets. DAVIS-16 and VSPW join this file together with their readers.
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config, eval_set, voc_source


def get_config() -> ConfigDict:
    """The paper's LDIS-1."""
    config = base_config("ldis1")
    # Weights are per sample, as in the public recipe.
    config.data.sources.pascal = voc_source("data/pascal", "train", weight=0.4)
    config.data.sources.coco = voc_source("data/coco20i", "train", weight=0.1)
    config.eval.sets.pascal = eval_set(voc_source("data/pascal", "val"), episodes=1000)
    config.eval.sets.coco = eval_set(voc_source("data/coco20i", "val"), episodes=1000)
    config.eval.main_set = "coco"
    return config
