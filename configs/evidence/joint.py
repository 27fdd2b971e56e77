"""LDIS-1 on images and videos together, everything trained.

Paper:     its mixture of data sets, in miniature; the ablations of data and of LoRA.
Command:   python benchmarks/evidence/sweep.py --only joint
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_mixture


def get_config() -> ConfigDict:
    """All three sets."""
    return evidence_mixture("images", "objects", "semantic")
