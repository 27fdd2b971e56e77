"""Weights in and out: total name tables, and the model folder built on them."""

from ldis_jax.convert.folder import load_model, load_training_init, save_model
from ldis_jax.convert.rules import fill, to_torch

__all__ = ["fill", "load_model", "load_training_init", "save_model", "to_torch"]
