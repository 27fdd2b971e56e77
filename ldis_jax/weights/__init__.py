"""Weights in and out: total name tables, lazy tensors, and the model folder built on them.

Sources: :mod:`.stable_diffusion`, :mod:`.clip`, :mod:`.ldis_checkpoint`, :mod:`.model_folder`, :mod:`.hub`.
Command: ``python -m ldis_jax.convert``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldis_jax.weights.model_folder import load_model, save_model
    from ldis_jax.weights.rules import fill, to_torch
    from ldis_jax.weights.training_init import load_training_init

__all__ = ["fill", "load_model", "load_training_init", "save_model", "to_torch"]

_HOMES = {
    "fill": "rules",
    "load_model": "model_folder",
    "load_training_init": "training_init",
    "save_model": "model_folder",
    "to_torch": "rules",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `--help` must not wait for jax.
    if name in _HOMES:
        return getattr(import_module(f"ldis_jax.weights.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ldis_jax.weights' has no attribute {name!r}")
