"""LDIS-1 on images and videos together, by LoRA of rank 4.

Paper:     the ablation of LoRA against full training.
Command:   python benchmarks/evidence/sweep.py --only joint_lora4
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_mixture


def get_config() -> ConfigDict:
    """Pairs of rank 4 alone are trained."""
    config = evidence_mixture("images", "objects", "semantic")
    config.lora.rank = 4
    return config
