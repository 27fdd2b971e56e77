"""LDIS-1 on images alone.

Paper:     the ablation of joint training.
Command:   python benchmarks/evidence/sweep.py --only only_images
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_mixture


def get_config() -> ConfigDict:
    """One set: images alone."""
    return evidence_mixture("images")
