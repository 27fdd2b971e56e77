"""LDIS-1 on videos with one object alone.

Paper:     the ablation of joint training.
Command:   python benchmarks/evidence/sweep.py --only only_objects
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_mixture


def get_config() -> ConfigDict:
    """One set: videos with one object alone."""
    return evidence_mixture("objects")
