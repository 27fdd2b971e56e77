"""The LDIS-1 that the experiments on real pictures start from.

Paper:     in the role of Stable Diffusion's weights; not an experiment of the paper.
Command:   python benchmarks/evidence/sweep.py --only base
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.evidence_config import evidence_base


def get_config() -> ConfigDict:
    """Painted scenes at 128 pixels, in TAESD's latents."""
    return evidence_base()
