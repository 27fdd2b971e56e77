"""LDIS-1 on painted scenes with pre-masking alone.

Paper:     the ablation of two-stage masking (eq. 1).
Command:   python benchmarks/evidence/sweep.py --only ldis1_pre_mask
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """LDIS-1 with pre-masking alone."""
    config = evidence_scenes("ldis1")
    config.task.masking = "pre"
    return config
