"""LDIS-1 on painted scenes, with both stages of masking.

Paper:     its default; what the other LDIS-1 variants are compared with.
Command:   python benchmarks/evidence/sweep.py --only ldis1
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """As configs/tiny.py, at the budget of the experiments."""
    return evidence_scenes("ldis1")
