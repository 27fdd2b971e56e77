"""LDIS-n on painted scenes whose UNet regresses the noise, as the paper's does.

Paper:     its own loss (eq. 9); the other LDIS-n variants here regress v.
Command:   python benchmarks/evidence/sweep.py --only ldisn_epsilon
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """LDIS-n with the paper's loss."""
    config = evidence_scenes("ldisn")
    config.init.prediction_type = "epsilon"
    return config
