"""LDIS-n on painted scenes with augmented pseudo masks, g = 0.6.

Paper:     what g of the augmented pseudo mask does (eq. 4).
Command:   python benchmarks/evidence/sweep.py --only ldisn_alpha60
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """LDIS-n with g = 0.6."""
    config = evidence_scenes("ldisn")
    config.task.mask_alpha = 0.6
    return config
