"""LDIS-1 on painted scenes with the pixel-space loss.

Paper:     the ablation of the loss (eq. 5).
Command:   python benchmarks/evidence/sweep.py --only ldis1_pixel
Hardware:  2 CPU cores.
Time, and what came out: docs/evidence.md.
"""

from ml_collections import ConfigDict

from ldis_jax.recipes.evidence import evidence_scenes


def get_config() -> ConfigDict:
    """LDIS-1 whose loss is taken behind the decoder."""
    config = evidence_scenes("ldis1")
    config.task.loss_space = "pixel"
    return config
