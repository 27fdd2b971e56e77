"""Low-rank adaptation: W stays as it is, a product B A of two thin matrices is trained beside it.

Source: "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), on q, k, v and o of every attention layer of
the UNet as the first version of the LDIS paper has it. Attribute paths are the names that diffusers and peft write.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Unpack

import jax
from flax import nnx

from ldis_jax.errors import LDISError, list_names
from ldis_jax.models.convolution import LayerOptions
from ldis_jax.models.unet import Attention, UNet2DConditionModel
from ldis_jax.support.checks import check_fields


@dataclasses.dataclass(frozen=True)
class LoRA:
    """The low-rank pairs that are trained in place of the whole UNet.

    Attributes:
        rank: r, the width of the product; any.
        alpha: the product is scaled by alpha / r; 0 stands for r, a scale of 1.
        also: parts of the UNet that are trained whole: what the base lacks and no low rank can learn.
    """

    rank: int
    alpha: float = 0.0
    also: tuple[str, ...] = ("encoder_hid_proj",)

    @property
    def scale(self) -> float:
        """The factor of the product."""
        return self.alpha / self.rank if self.alpha else 1.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> LoRA | None:
        """Reads ``config.lora`` or a checkpoint; None for rank 0. Raises :class:`LDISError` on wrong values."""
        check_fields(cls, values, where)
        if not values.get("rank", 0):
            return None
        return cls(**{**values, "also": tuple(values.get("also", cls.also))})

    def trains(self, name: str) -> bool:
        """True if a parameter of the UNet is trained, by its name in our form ("a/b") or torch's ("a.b")."""
        parts = name.replace(".", "/").split("/")
        return "lora_A" in parts or "lora_B" in parts or parts[0] in self.also


class LoRALinear(nnx.Linear):
    """x W + b + scale (x A) B. The two thin products cost next to nothing, and no gradient of W's size arises."""

    def __init__(self, c_in: int, c_out: int, lora: LoRA, use_bias: bool, **layer: Unpack[LayerOptions]):
        super().__init__(c_in, c_out, use_bias=use_bias, **layer)
        thin = functools.partial(nnx.Linear, use_bias=False, **layer)
        self.lora_A, self.lora_B = thin(c_in, lora.rank), thin(lora.rank, c_out)
        self.lora_scale = lora.scale

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        return super().__call__(inputs, out_sharding) + self.lora_scale * self.lora_B(self.lora_A(inputs))


def add_lora(unet: UNet2DConditionModel, lora: LoRA, **layer: Unpack[LayerOptions]) -> None:
    """Gives ``to_q``, ``to_k``, ``to_v`` and ``to_out.0`` of every attention layer their pairs, in place.

    Meant for an abstract UNet, of which every parameter is filled afterwards.

    Raises:
        LDISError: ``lora.also`` names what the UNet has not.
    """
    if missing := [name for name in lora.also if not isinstance(getattr(unet, name, None), nnx.Module)]:
        raise LDISError(f"lora.also: {list_names(missing)} is no part of the UNet")

    def adapted(linear: nnx.Linear) -> LoRALinear:
        return LoRALinear(linear.in_features, linear.out_features, lora, linear.bias is not None, **layer)

    for _, module in list(nnx.iter_modules(unet)):
        if isinstance(module, Attention):
            module.to_q, module.to_k, module.to_v = map(adapted, (module.to_q, module.to_k, module.to_v))
            module.to_out = nnx.List([adapted(module.to_out[0])])
