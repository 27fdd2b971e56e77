"""A model at work between image and mask: instruction tokens, cross-attention, and the mask over the steps."""

from ldis_jax.look_inside.cross_attention import CrossAttention, Place
from ldis_jax.look_inside.look import LookInside
from ldis_jax.look_inside.pictures import attended_sheet, attending_sheet, layers_sheet, steps_sheet, tokens_sheet
from ldis_jax.look_inside.token_grid import TokenGrid

__all__ = [
    "CrossAttention",
    "LookInside",
    "Place",
    "TokenGrid",
    "attended_sheet",
    "attending_sheet",
    "layers_sheet",
    "steps_sheet",
    "tokens_sheet",
]
