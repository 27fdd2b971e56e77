"""LDIS-n on painted scenes with the vanilla pseudo mask.

Paper:     the ablation of the target: M_v (eq. 2).
Command:   python benchmarks/evidence/sweep.py --only ldisn_vanilla
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """LDIS-n that paints M_v."""
    config = evidence_scenes("ldisn")
    config.task.mask_alpha = 0.0
    return config
