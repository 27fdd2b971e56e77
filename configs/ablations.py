r"""The paper's variants that its public code lacks: what each changes of configs/ldis1.py or configs/ldisn.py.

Paper:     "Explore In-Context Segmentation via Latent Diffusion Models", arXiv 2403.09616v2, and v1, its first version;
           the list below has what each variant is of it. docs/variants.md explains the keys.
Command:   python -m ldis_jax.main --config=configs/ablations.py:VARIANT --workdir=runs/VARIANT \
               --config.init.folder=pretrained/ldis1
           with pretrained/ldisn for variants of LDIS-n, and pretrained/ldis1_plain_clip for ldis1_plain_clip;
           where records lie elsewhere than in data/records, --config=configs/ablations.py:VARIANT:FOLDER.
Needs:     as configs/ldis1.py and configs/ldisn.py; ldis1_plain_clip a prompt encoder that python -m ldis_jax.convert
           made of --clip alone (docs/weights.md).
Hardware:  not run at full size by this project.
Time:      not measured.
Expected:  not measured by this project. Below, what the paper reports is mIoU on COCO; where there is none, no figure
           of the paper's is known to us.

ldis1_pixel       The pixel-space loss: the decoder is part of what is trained through.
                  Paper: eq. 5 in place of eq. 6. The frozen decoder's blocks are computed again in the backward pass.
                  Expected: 55.6 (latent-space loss: 61.3).
ldis1_lora_rank1  LoRA of rank 1 in place of training the whole UNet.
                  Paper: pairs on q, k, v and o of every attention layer; the adapter encoder_hid_proj is new and
                  trained whole. 986,496 parameters are trained, of 860 million.
                  Expected: 53.0 (all of the UNet trained: 61.3).
ldis1_lora_rank4  LDIS-1 as the first version trained it: LoRA of rank 4, a quarter of the batch, half the steps.
                  Paper: v1: rank 4 on q, k, v and o of every attention layer, 80k steps, batch 16. 1,584,384 parameters
                  are trained, the adapter included.
ldis1_noised      The query's latents are noised at a timestep t, as the paper's text has it.
                  Paper: z_t goes into the UNet; its public code noises nothing and sets t = 0. The sources we have do
                  not say which t; 100 is ours (z_t keeps 0.95 of z).
ldis1_plain_clip  Plain CLIP as the prompt encoder, which takes no alpha: post-masking alone, all that it can do.
                  Paper: its ablation without Alpha-CLIP, on LDIS-1.
ldisn_pre_mask    Pre-masking alone: the encoder sees the prompt's mask, cross-attention does not.
                  Paper: its ablation of eq. 1. Expected: 43.8 (both stages: 52.6).
ldisn_post_mask   Post-masking alone: cross-attention sees the prompt's mask, the encoder does not.
                  Paper: its ablation of eq. 1. Expected: 49.7 (both stages: 52.6).
ldisn_no_mask     No masking: the prompt's image alone says what is meant.
                  Paper: the row that its ablation of eq. 1 leaves out.
ldisn_vanilla     The target is the vanilla pseudo mask M_v.
                  Paper: its ablation of the target, M_v (eq. 2). That table's augmented row, 49.7, equals the row of
                  post-masking alone in the table of masking, hence masking = "post" here.
                  Expected: 39.4 (augmented: 49.7).
ldisn_perturbed   The target is the vanilla pseudo mask and noise.
                  Paper: the same table, M_v + noise, hence masking = "post" too. The noise's standard deviation is not
                  in the sources we have; 0.4 is ours.
                  Expected: 48.7 (augmented: 49.7).
ldisn_added       The first version's augmentation, M_v + I_q / alpha.
                  Paper: v1. Its alpha is not in the sources we have; 1.5 is ours: mask and image stand to each other
                  as in eq. 4 with g = 0.4. The target lies in [-1.67, 1.67], outside of what the autoencoder was
                  trained on.
"""

from ml_collections import ConfigDict

from ldis_jax.config import base_config, check_variant
from ldis_jax.recipes.data import paper_data

VARIANTS = {
    "ldis1_pixel": {"task.loss_space": "pixel"},
    "ldis1_lora_rank1": {"lora.rank": 1},
    "ldis1_lora_rank4": {"lora.rank": 4, "train_steps": 80_000, "batch_size": 16},
    "ldis1_noised": {"task.noised": True, "task.timestep": 100},
    "ldis1_plain_clip": {"task.masking": "post"},
    "ldisn_pre_mask": {"task.masking": "pre"},
    "ldisn_post_mask": {"task.masking": "post"},
    "ldisn_no_mask": {"task.masking": "none"},
    "ldisn_vanilla": {"task.mask_alpha": 0.0, "task.masking": "post"},
    "ldisn_perturbed": {
        "task.target": "perturbed",
        "task.mask_alpha": 0.0,
        "task.mask_noise": 0.4,
        "task.masking": "post",
    },
    "ldisn_added": {"task.target": "added", "task.mask_alpha": 1.5},
}


def get_config(text: str = "") -> ConfigDict:
    """The paper's recipe with what a variant changes; ``text`` is VARIANT or VARIANT:FOLDER, where the records are."""
    variant, _, records = text.partition(":")
    check_variant("configs/ablations.py", variant, VARIANTS)
    config = base_config(variant.partition("_")[0])
    paper_data(config, records or "data/records")
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
