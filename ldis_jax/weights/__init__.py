"""Weights in and out: total name tables, lazy tensors, and the model folder built on them.

Sources: :mod:`.stable_diffusion`, :mod:`.clip`, :mod:`.ldis_checkpoint`, :mod:`.model_folder`, :mod:`.hub`.
Command: ``python -m ldis_jax.convert``.
"""

from ldis_jax.weights.model_folder import load_model, save_model
from ldis_jax.weights.rules import fill, to_torch
from ldis_jax.weights.training_init import load_training_init

__all__ = ["fill", "load_model", "load_training_init", "save_model", "to_torch"]
