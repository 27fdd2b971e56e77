"""Cross-attention's weights, seen from outside: layers that also tell what they attend to.

:func:`record_cross_attention` changes one UNet in place, a copy made for the purpose. The networks themselves know
nothing of it, so that predictions compile to what they always were.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ldis_jax.models.unet import Attention, Instruction, UNet2DConditionModel

# Takes a layer's name and its weights, float32 [B, S, T].
Record = Callable[[str, jax.Array], None]


def attention_weights(q: jax.Array, k: jax.Array, num_heads: int, bias: jax.Array | None = None) -> jax.Array:
    """The softmax inside :func:`ldis_jax.models.layers.attend`, of the same arguments, mean over the heads.

    It is float32 [B, S, T]; each query's weights sum to 1.
    """
    q, k = (x.reshape(*x.shape[:2], num_heads, -1) for x in (q, k))
    logits = jnp.einsum("bsnd,btnd->bnst", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jax.nn.softmax(logits if bias is None else logits + bias[:, None, None], axis=-1).mean(axis=1)


class RecordedAttention(Attention):
    """A cross-attention layer, its parameters shared, that hands its weights to ``record`` on the way."""

    def __init__(self, layer: Attention, name: str, record: Record):
        self.heads = layer.heads
        self.to_q, self.to_k, self.to_v, self.to_out = layer.to_q, layer.to_k, layer.to_v, layer.to_out
        self.name, self.record = name, record

    def read(self, x: jax.Array, instructions: tuple[Instruction, ...]) -> jax.Array:
        """Calls :meth:`Attention.read`, and records the first instruction's first branch, the prompted one."""
        count = sum(instruction.branches for instruction in instructions)
        first = instructions[0]
        k = jnp.broadcast_to(first.k, (x.shape[0] // count, *first.k.shape[1:]))
        self.record(self.name, attention_weights(self.to_q(x[::count]), k, self.heads, first.bias))
        return super().read(x, instructions)


def record_cross_attention(unet: UNet2DConditionModel, record: Record) -> None:
    """Makes every evaluation of a UNet call ``record`` for each of its cross-attention layers, in place.

    What is recorded belongs to the trace that the UNet is evaluated in: neither inside a loop of ``jax.lax`` nor under
    rematerialisation can it leave.

    Args:
        unet: with ``remat`` "none".
        record: called with a layer's name, that of diffusers ("mid_block.attentions.0"), and its weights.
    """
    assert unet.remat == "none"
    for path, module in list(nnx.iter_modules(unet)):
        attentions = getattr(module, "attentions", ())
        for i, transformer in enumerate(attentions):
            (block,) = transformer.transformer_blocks
            name = ".".join(map(str, (*path, "attentions", i)))
            block.attn2 = RecordedAttention(block.attn2, name, record)
