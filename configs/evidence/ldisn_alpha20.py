"""LDIS-n on painted scenes with augmented pseudo masks, g = 0.2.

Paper:     what g of the augmented pseudo mask does (eq. 4).
Command:   python benchmarks/evidence/sweep.py --only ldisn_alpha20
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """LDIS-n with g = 0.2."""
    config = evidence_scenes("ldisn")
    config.task.mask_alpha = 0.2
    return config
