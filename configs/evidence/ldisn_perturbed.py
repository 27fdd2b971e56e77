"""LDIS-n on painted scenes with perturbed pseudo masks.

Paper:     the ablation of the target: M_v and noise.
Command:   python benchmarks/evidence/sweep.py --only ldisn_perturbed
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """LDIS-n that paints M_v and noise of standard deviation 0.4."""
    config = evidence_scenes("ldisn")
    config.task.target = "perturbed"
    config.task.mask_alpha = 0.0
    config.task.mask_noise = 0.4
    return config
