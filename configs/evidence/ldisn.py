"""LDIS-n on painted scenes with augmented pseudo masks, g = 0.4.

Paper:     its default; what the other LDIS-n variants are compared with.
Command:   python benchmarks/evidence/sweep.py --only ldisn
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """As configs/tiny_ldisn.py, at the budget of the experiments."""
    return evidence_scenes("ldisn")
