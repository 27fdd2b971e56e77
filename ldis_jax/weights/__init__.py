"""Weights in and out: total name tables, lazy tensors, and the model folder built on them.

Sources: :mod:`.stable_diffusion`, :mod:`.clip`, :mod:`.ldis_checkpoint`, :mod:`.model_folder`, :mod:`.hub`, and
:mod:`.named_models`, the table of models that have a name. Command: ``python -m ldis_jax.convert``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldis_jax.weights.model_folder import load_model, save_model
    from ldis_jax.weights.rules import fill, to_torch
    from ldis_jax.weights.training_init import load_training_init

__all__ = ["fill", "load_model", "load_training_init", "save_model", "to_torch"]

_PLACES = {
    **dict.fromkeys(("load_model", "save_model"), "model_folder"),
    **dict.fromkeys(("fill", "to_torch"), "rules"),
    "load_training_init": "training_init",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: what lists named models must not wait for jax.
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
