"""Stable Diffusion 1.5's conditional UNet. Attribute names and numerics are diffusers' ``UNet2DConditionModel``.

What LDIS adds: ``encoder_hid_proj``, the linear adapter from the prompt encoder's width to the cross-attention
width, and an additive bias over the instruction tokens in every cross-attention layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Unpack

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ldis_jax.models.config import UNetConfig
from ldis_jax.models.convolution import PAD_BOTH, Downsample2D, LayerOptions, Upsample2D, conv
from ldis_jax.models.layers import ResnetBlock2D, Run, attend, group_norm, layer_norm, rematerialised

# Transformer2D's norm differs from the ResNet blocks' 1e-5; diffusers' old Flax port missed this.
_TRANSFORMER_NORM_EPS = 1e-6


def timestep_embedding(timesteps: jax.Array, dim: int) -> jax.Array:
    """Sinusoidal embedding, cosine half first (``flip_sin_to_cos``), ``freq_shift`` 0: [B] -> float32 [B, dim]."""
    half = dim // 2
    freqs = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * freqs[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """Two linear layers around a SiLU."""

    def __init__(self, c_in: int, c_out: int, **layer: Unpack[LayerOptions]):
        self.linear_1 = nnx.Linear(c_in, c_out, **layer)
        self.linear_2 = nnx.Linear(c_out, c_out, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear_2(nnx.silu(self.linear_1(x)))


@flax.struct.dataclass
class Instruction:
    """The input of one cross-attention layer: keys and values of instruction tokens.

    Attributes:
        k, v: [B, T, C]; or [1, T, C], the same for every sample.
        bias: float32 [B, T], added to the logits; None adds nothing.
        branches: rows of the batch in succession, of a sample, that read it.
    """

    k: jax.Array
    v: jax.Array
    bias: jax.Array | None = None
    branches: int = flax.struct.field(pytree_node=False, default=1)


class Attention(nnx.Module):
    """Multi-head attention without q, k, v biases."""

    def __init__(self, channels: int, context_dim: int, heads: int, **layer: Unpack[LayerOptions]):
        self.heads = heads
        self.to_q = nnx.Linear(channels, channels, use_bias=False, **layer)
        self.to_k = nnx.Linear(context_dim, channels, use_bias=False, **layer)
        self.to_v = nnx.Linear(context_dim, channels, use_bias=False, **layer)
        self.to_out = nnx.List([nnx.Linear(channels, channels, **layer)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Self-attention, [B, S, C] -> the same."""
        return self.to_out[0](attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))

    def read(self, x: jax.Array, instructions: tuple[Instruction, ...]) -> jax.Array:
        """Cross-attention: [B * N, S, C] -> the same, where each sample's N rows read the instructions in turn."""
        count = sum(instruction.branches for instruction in instructions)
        q = self.to_q(x).reshape(-1, count, *x.shape[1:])
        found, start = [], 0
        for given in instructions:
            stop = start + given.branches
            # A sample's rows with the same keys are one long row of queries.
            rows = q[:, start:stop].reshape(q.shape[0], -1, x.shape[-1])
            k, v = (jnp.broadcast_to(each, (q.shape[0], *each.shape[1:])) for each in (given.k, given.v))
            part = attend(rows, k, v, self.heads, given.bias)
            found.append(part.reshape(-1, given.branches, *x.shape[1:]))
            start = stop
        return self.to_out[0](jnp.concatenate(found, axis=1).reshape(x.shape))


class GEGLU(nnx.Module):
    """Gated linear unit with the exact (erf) GELU."""

    def __init__(self, c_in: int, c_out: int, **layer: Unpack[LayerOptions]):
        self.proj = nnx.Linear(c_in, 2 * c_out, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * nnx.gelu(gate, approximate=False)


class Identity(nnx.Module):
    """Holds the index that dropout has in diffusers' ``net``."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class FeedForward(nnx.Module):
    """GEGLU to 4x the width and back."""

    def __init__(self, channels: int, **layer: Unpack[LayerOptions]):
        wide = 4 * channels
        self.net = nnx.List([GEGLU(channels, wide, **layer), Identity(), nnx.Linear(wide, channels, **layer)])

    @jax.named_scope("feed_forward")
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.net:
            x = layer(x)
        return x


class BasicTransformerBlock(nnx.Module):
    """Self-attention, cross-attention over the instruction tokens, feed-forward; each pre-normed."""

    def __init__(self, channels: int, context_dim: int, heads: int, **layer: Unpack[LayerOptions]):
        self.norm1 = layer_norm(channels, **layer)
        self.attn1 = Attention(channels, channels, heads, **layer)
        self.norm2 = layer_norm(channels, **layer)
        self.attn2 = Attention(channels, context_dim, heads, **layer)
        self.norm3 = layer_norm(channels, **layer)
        self.ff = FeedForward(channels, **layer)

    def __call__(self, x: jax.Array, instructions: tuple[Instruction, ...]) -> jax.Array:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2.read(self.norm2(x), instructions)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
    """One transformer block over pixels, between 1x1 convolutions, with a residual."""

    def __init__(self, channels: int, heads: int, config: UNetConfig, **layer: Unpack[LayerOptions]):
        self.norm = group_norm(channels, config.norm_num_groups, _TRANSFORMER_NORM_EPS, **layer)
        self.proj_in = conv(channels, channels, 1, **layer)
        self.transformer_blocks = nnx.List(
            [BasicTransformerBlock(channels, config.cross_attention_dim, heads, **layer)]
        )
        self.proj_out = conv(channels, channels, 1, **layer)

    def __call__(self, x: jax.Array, instructions: tuple[Instruction, ...]) -> jax.Array:
        h = self.proj_in(self.norm(x)).reshape(x.shape[0], -1, x.shape[-1])
        for block in self.transformer_blocks:
            h = block(h, instructions)
        return x + self.proj_out(h.reshape(x.shape))


def _resnets(
    config: UNetConfig, c_ins: Iterable[int], c_out: int, **layer: Unpack[LayerOptions]
) -> nnx.List[ResnetBlock2D]:
    sizes = (config.norm_num_groups, config.norm_eps, 4 * config.block_out_channels[0])
    return nnx.List(ResnetBlock2D(c_in, c_out, *sizes, **layer) for c_in in c_ins)


def _transformers(
    config: UNetConfig, count: int, channels: int, heads: int | None, **layer: Unpack[LayerOptions]
) -> nnx.List[Transformer2DModel]:
    if heads is None:
        return nnx.List()
    return nnx.List(Transformer2DModel(channels, heads, config, **layer) for _ in range(count))


class DownBlock(nnx.Module):
    """``CrossAttnDownBlock2D``, or ``DownBlock2D`` where ``heads`` is None."""

    def __init__(
        self, config: UNetConfig, c_in: int, c_out: int, heads: int | None, last: bool, **layer: Unpack[LayerOptions]
    ):
        n = config.layers_per_block
        self.resnets = _resnets(config, (c_in, *[c_out] * (n - 1)), c_out, **layer)
        self.attentions = _transformers(config, n, c_out, heads, **layer)
        self.downsamplers = nnx.List([] if last else [Downsample2D(c_out, PAD_BOTH, **layer)])

    def __call__(
        self, x: jax.Array, temb: jax.Array, layers: Iterator[tuple[Instruction, ...]], run: Run
    ) -> tuple[jax.Array, list[jax.Array]]:
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = run(resnet, x, temb)
            if self.attentions:
                x = run(self.attentions[i], x, next(layers))
            skips.append(x)
        for down in self.downsamplers:
            x = down(x)
            skips.append(x)
        return x, skips


class MidBlock(nnx.Module):
    """``UNetMidBlock2DCrossAttn``: resnet, attention, resnet."""

    def __init__(self, config: UNetConfig, **layer: Unpack[LayerOptions]):
        channels = config.block_out_channels[-1]
        self.attentions = _transformers(config, 1, channels, config.num_heads[-1], **layer)
        self.resnets = _resnets(config, (channels, channels), channels, **layer)

    def __call__(self, x: jax.Array, temb: jax.Array, layers: Iterator[tuple[Instruction, ...]], run: Run) -> jax.Array:
        x = run(self.resnets[0], x, temb)
        x = run(self.attentions[0], x, next(layers))
        return run(self.resnets[1], x, temb)


class UpBlock(nnx.Module):
    """``CrossAttnUpBlock2D``, or ``UpBlock2D`` where ``heads`` is None. Pops the encoder's skip connections."""

    def __init__(
        self,
        config: UNetConfig,
        c_ins: list[int],
        c_out: int,
        heads: int | None,
        last: bool,
        **layer: Unpack[LayerOptions],
    ):
        self.resnets = _resnets(config, c_ins, c_out, **layer)
        self.attentions = _transformers(config, len(c_ins), c_out, heads, **layer)
        self.upsamplers = nnx.List([] if last else [Upsample2D(c_out, **layer)])

    def __call__(
        self,
        x: jax.Array,
        skips: list[jax.Array],
        temb: jax.Array,
        layers: Iterator[tuple[Instruction, ...]],
        run: Run,
    ) -> jax.Array:
        for i, resnet in enumerate(self.resnets):
            x = run(resnet, x, temb, skips.pop())
            if self.attentions:
                x = run(self.attentions[i], x, next(layers))
        for up in self.upsamplers:
            x = up(x)
        return x


class UNet2DConditionModel(nnx.Module):
    """The trained network of LDIS."""

    def __init__(self, config: UNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.remat = "none"  # what the backward pass computes again, see layers.rematerialised
        layer: LayerOptions = {"dtype": dtype, "rngs": rngs}
        channels, n = config.block_out_channels, config.layers_per_block
        last = len(channels) - 1
        self.conv_in = conv(config.in_channels, channels[0], **layer)
        self.time_embedding = TimestepEmbedding(channels[0], 4 * channels[0], **layer)
        if config.encoder_hid_dim is not None:
            self.encoder_hid_proj = nnx.Linear(config.encoder_hid_dim, config.cross_attention_dim, **layer)

        skips = [channels[0]]  # channels of every skip connection, in the order the down path makes them
        down_blocks = []
        for i, (kind, c_out) in enumerate(zip(config.down_block_types, channels, strict=True)):
            heads = config.num_heads[i] if kind.startswith("CrossAttn") else None
            down_blocks.append(DownBlock(config, skips[-1], c_out, heads, i == last, **layer))
            skips += [c_out] * (n + (i != last))
        self.down_blocks = nnx.List(down_blocks)

        self.mid_block = MidBlock(config, **layer)

        up_blocks, c_in = [], channels[-1]
        for i, (kind, c_out) in enumerate(zip(config.up_block_types, channels[::-1], strict=True)):
            heads = config.num_heads[last - i] if kind.startswith("CrossAttn") else None
            c_ins = [c + skips.pop() for c in (c_in, *[c_out] * n)]
            up_blocks.append(UpBlock(config, c_ins, c_out, heads, i == last, **layer))
            c_in = c_out
        self.up_blocks = nnx.List(up_blocks)

        self.conv_norm_out = group_norm(channels[0], config.norm_num_groups, config.norm_eps, **layer)
        self.conv_out = conv(channels[0], config.out_channels, **layer)

    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        encoder_hidden_states: jax.Array,
        encoder_attention_bias: jax.Array | None = None,
    ) -> jax.Array:
        """One evaluation.

        Args:
            sample: [B, s, s, in_channels] latents; s divides by 2^(levels - 1).
            timesteps: [B], 0 to 999.
            encoder_hidden_states: [B, T, encoder_hid_dim] instruction tokens.
            encoder_attention_bias: float32 [B, T], added to the cross-attention logits.

        Returns:
            float32 [B, s, s, out_channels].
        """
        return self.evaluate(sample, timesteps, self.instruct(encoder_hidden_states, encoder_attention_bias))

    @jax.named_scope("unet")
    def instruct(
        self,
        encoder_hidden_states: jax.Array,
        encoder_attention_bias: jax.Array | None = None,
        branches: int = 1,
    ) -> list[Instruction]:
        """Keys and values of every cross-attention layer, which depend on no timestep and no latent.

        Args:
            encoder_hidden_states: [B, T, encoder_hid_dim], or one row for all samples.
            encoder_attention_bias: float32 [B, T].
            branches: of a sample that read it, see :meth:`evaluate`.

        Returns:
            one a layer, in the order of evaluation.
        """
        context = encoder_hidden_states
        if self.config.encoder_hid_dim is not None:
            context = self.encoder_hid_proj(context)
        levels: tuple[DownBlock | MidBlock | UpBlock, ...] = (*self.down_blocks, self.mid_block, *self.up_blocks)
        layers = [block.attn2 for level in levels for each in level.attentions for block in each.transformer_blocks]
        return [
            Instruction(layer.to_k(context), layer.to_v(context), encoder_attention_bias, branches) for layer in layers
        ]

    @jax.named_scope("unet")
    def evaluate(self, sample: jax.Array, timesteps: jax.Array, *instructions: list[Instruction]) -> jax.Array:
        """Evaluates the UNet with instructions that :meth:`instruct` made before.

        Args:
            sample: [B * N, s, s, in_channels], a sample's N branches in a row.
            timesteps: [B * N].
            *instructions: of :meth:`instruct`; the first's branches come first, and all of theirs together are N.

        Returns:
            float32 [B * N, s, s, out_channels].
        """
        temb = timestep_embedding(timesteps, self.config.block_out_channels[0]).astype(self.dtype)
        # Every resnet applies SiLU to the embedding first; once here saves doing it in each.
        temb = nnx.silu(self.time_embedding(temb))
        layers = zip(*instructions, strict=True)

        run = rematerialised(self.remat)
        x = self.conv_in(sample)
        skips = [x]
        for down in self.down_blocks:
            x, new = down(x, temb, layers, run)
            skips += new
        x = self.mid_block(x, temb, layers, run)
        for up in self.up_blocks:
            x = up(x, skips, temb, layers, run)
        return self.conv_out(nnx.silu(self.conv_norm_out(x))).astype(jnp.float32)
