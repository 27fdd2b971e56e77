"""Network sizes, read from the ``config.json`` beside every weight file.

A key that diffusers knows and we do not implement is accepted only at the one value that leaves the network
unchanged; any other key is an error, because ignoring it could silently change the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from ldis_jax.errors import LDISError, list_names
from ldis_jax.support.checks import check_fields

# Bookkeeping of diffusers and transformers; has no effect on the network.
_IGNORED_KEYS = frozenset({"_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "architectures"})

# Stable Diffusion 1.x: scaled latents, which its UNet sees, are this times AutoencoderKL's.
SD_SCALING_FACTOR = 0.18215

# Numbers of layers: each is a module that is built before any weight is read.
_MOST = {"layers": 256, "layers_per_block": 16, "num_encoder_blocks": 64, "num_decoder_blocks": 64}


@dataclasses.dataclass(frozen=True)
class _NetworkConfig:
    class_name: ClassVar[str] = ""  # diffusers'
    _redundant: ClassVar[frozenset[str]] = frozenset()  # foreign keys that repeat a field
    # Foreign keys and the values at which they mean what this implementation does.
    _fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Builds the config from a parsed ``config.json``.

        Args:
            values: the JSON object.
            where: file name for error messages.

        Raises:
            LDISError: an unknown key, a value of the wrong type, or one that this implementation does not support.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        ignored = (_IGNORED_KEYS | cls._redundant) - cls._fixed.keys()
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        foreign = {key: value for key, value in given.items() if key not in fields | ignored}
        kept = {key: value for key, value in given.items() if key in fields}
        check_fields(cls, kept, where)
        config = cls(**kept)
        problems = [f"{k}={v!r:.80} is not supported" for k, v in foreign.items() if v not in cls._fixed.get(k, ())]
        if problem := ", ".join(problems) or next(config._problems(), None):
            raise LDISError(f"{where}: not a network we can build: {problem}")
        return config

    def _problems(self) -> Iterator[str]:
        """Yields values that are out of range or do not fit together; later checks rely on earlier ones."""
        for name, value in vars(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            positive = all(isinstance(n, str | bool) or n is None or n > 0 for n in numbers)
            if not numbers or not positive or (name in _MOST and max(numbers) > _MOST[name]):
                yield f"{name}={value!r} is out of range"

    def to_dict(self) -> dict[str, Any]:
        """The inverse of :meth:`from_dict`, with JSON types."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return {"_class_name": self.class_name, **values} if self.class_name else values


@dataclasses.dataclass(frozen=True)
class UNetConfig(_NetworkConfig):
    """diffusers' ``UNet2DConditionModel``; the defaults are SD 1.5 with LDIS's 1024-to-768 adapter.

    ``attention_head_dim`` keeps diffusers' misnomer: it is the *number of heads*, one for all levels or one a level.
    """

    class_name = "UNet2DConditionModel"
    _fixed: ClassVar = {
        **dict.fromkeys(("addition_embed_type", "addition_time_embed_dim", "class_embed_type"), (None,)),
        **dict.fromkeys(("cross_attention_norm", "num_attention_heads", "num_class_embeds"), (None,)),
        **dict.fromkeys(("projection_class_embeddings_input_dim", "reverse_transformer_layers_per_block"), (None,)),
        **dict.fromkeys(("time_cond_proj_dim", "time_embedding_act_fn", "time_embedding_dim"), (None,)),
        **dict.fromkeys(("timestep_post_act",), (None,)),
        **dict.fromkeys(("center_input_sample", "class_embeddings_concat", "dual_cross_attention"), (False,)),
        **dict.fromkeys(("only_cross_attention", "resnet_skip_time_act", "use_linear_projection"), (False,)),
        **dict.fromkeys(("mid_block_only_cross_attention", "upcast_attention"), (None, False)),
        **dict.fromkeys(("downsample_padding", "mid_block_scale_factor", "resnet_out_scale_factor"), (1,)),
        **dict.fromkeys(("attention_type", "resnet_time_scale_shift"), ("default",)),
        **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), (3,)),
        **dict.fromkeys(("dropout", "freq_shift"), (0,)),
        "act_fn": ("silu", "swish"),
        "addition_embed_type_num_heads": (64,),
        "encoder_hid_dim_type": (None, "text_proj"),
        "flip_sin_to_cos": (True,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "time_embedding_type": ("positional",),
        "transformer_layers_per_block": (1,),
    }

    sample_size: int | None = 64
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    layers_per_block: int = 2
    attention_head_dim: int | tuple[int, ...] = 8
    cross_attention_dim: int = 768
    encoder_hid_dim: int | None = 1024
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Attention heads at each level."""
        heads = self.attention_head_dim
        return heads if isinstance(heads, tuple) else (heads,) * len(self.block_out_channels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Reads a config; a file that does not name the adapter has none, as in diffusers."""
        return super().from_dict({"encoder_hid_dim": None, **values}, where)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        lists = (self.block_out_channels, self.num_heads, self.down_block_types, self.up_block_types)
        if len(set(map(len, lists))) > 1:
            yield "block_out_channels, attention_head_dim and the types of blocks differ in length"
        for side, kinds in (("Down", self.down_block_types), ("Up", self.up_block_types)):
            if unknown := set(kinds) - {f"CrossAttn{side}Block2D", f"{side}Block2D"}:
                yield f"unsupported block {list_names(unknown)}"
        for channels, heads in zip(self.block_out_channels, self.num_heads, strict=True):
            if channels % self.norm_num_groups or channels % heads:
                yield f"{channels} channels do not divide by {self.norm_num_groups} groups or {heads} heads"

    def to_dict(self) -> dict[str, Any]:
        adapter = "text_proj" if self.encoder_hid_dim is not None else None
        return {**super().to_dict(), "encoder_hid_dim_type": adapter}


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig(_NetworkConfig):
    """diffusers' ``AutoencoderKL``; the defaults are SD 1.5's."""

    class_name = "AutoencoderKL"
    _fixed: ClassVar = {
        "_class_name": (class_name,),
        "act_fn": ("silu", "swish"),
        "down_block_types": tuple(("DownEncoderBlock2D",) * n for n in range(1, 7)),
        "up_block_types": tuple(("UpDecoderBlock2D",) * n for n in range(1, 7)),
        "force_upcast": (True, False),  # about fp16 overflow in torch; we never compute in fp16
        "latents_mean": (None,),
        "latents_std": (None,),
        "mid_block_add_attention": (True,),
        "shift_factor": (None, 0.0),
        "use_quant_conv": (True,),
        "use_post_quant_conv": (True,),
    }

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = SD_SCALING_FACTOR
    sample_size: int | None = 512

    @property
    def downscale(self) -> int:
        """Image pixels along one side of a latent pixel."""
        return 2 ** (len(self.block_out_channels) - 1)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            yield f"{self.block_out_channels} channels do not divide by {self.norm_num_groups} groups"

    def to_dict(self) -> dict[str, Any]:
        levels = len(self.block_out_channels)
        down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
        return {**super().to_dict(), "down_block_types": down, "up_block_types": up}


@dataclasses.dataclass(frozen=True)
class AutoencoderTinyConfig(_NetworkConfig):
    """diffusers' ``AutoencoderTiny``; the defaults are TAESD's.

    ``scaling_factor`` is the file's: its latents times this are Stable Diffusion's scaled ones.
    """

    class_name = "AutoencoderTiny"
    _redundant = frozenset({"block_out_channels"})
    _fixed: ClassVar = {
        "act_fn": ("relu",),
        "force_upcast": (True, False),
        "latent_magnitude": (3,),
        "latent_shift": (0.5,),
        "shift_factor": (None, 0.0),
        "upsample_fn": ("nearest",),
        "upsampling_scaling_factor": (2,),
    }

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0

    @property
    def downscale(self) -> int:
        """Image pixels along one side of a latent pixel."""
        return 2 ** (len(self.num_encoder_blocks) - 1)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        for side in ("encoder", "decoder"):
            channels, blocks = getattr(self, f"{side}_block_out_channels"), getattr(self, f"num_{side}_blocks")
            if not len(channels) == len(blocks) == len(self.num_encoder_blocks):
                yield f"{side} has {len(channels)} levels of channels and {len(blocks)} of blocks"
            if len(set(channels)) != 1:  # as the reference: its stack has no convolution between widths
                yield f"{side}_block_out_channels {channels} must be equal"


VAEConfig = AutoencoderConfig | AutoencoderTinyConfig


@dataclasses.dataclass(frozen=True)
class PromptEncoderConfig(_NetworkConfig):
    """Alpha-CLIP's image encoder; the defaults are ViT-L/14. ``alpha=False`` is plain CLIP (ablation)."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    alpha: bool = True

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Instruction tokens of one prompt (L), the class token not counted."""
        return self.grid**2

    @property
    def query_channels(self) -> int:
        """Channels that the UNet sees of a query beside its latents: none."""
        return 0

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.image_size % self.patch_size or self.width % self.heads:
            yield f"image_size and width do not divide by patch_size and heads: {self}"


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig(_NetworkConfig):
    """EfficientNet-Lite0 in the place of Alpha-CLIP; see :mod:`ldis_jax.models.efficientnet`."""

    class_name = "EfficientNetLite0"
    levels: ClassVar[tuple[int, int]] = (112, 320)  # channels that are read, of 1/16 and of 1/32
    alpha: ClassVar[bool] = True

    image_size: int = 256

    @property
    def grid(self) -> int:
        """Tokens along one side of the image."""
        return self.image_size // 16

    @property
    def num_tokens(self) -> int:
        """Instruction tokens of one prompt (L)."""
        return self.grid**2

    @property
    def width(self) -> int:
        """D: both levels, and the alpha channel."""
        return sum(self.levels) + 1

    @property
    def query_channels(self) -> int:
        """Channels that the UNet sees of a query beside its latents: its tokens and six similarities."""
        return self.width + 6

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.image_size % 32:
            yield f"image_size={self.image_size} is not a multiple of 32"


AnyPromptEncoderConfig = PromptEncoderConfig | EfficientNetConfig
