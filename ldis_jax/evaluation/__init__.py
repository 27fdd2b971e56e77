"""The benchmark: protocols, frozen episodes, reports with intervals. Run by ``python -m ldis_jax.evaluate``."""
