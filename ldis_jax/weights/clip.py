"""Prompt encoders from outside: OpenAI's CLIP, Alpha-CLIP, and transformers' CLIP, under Alpha-CLIP's names."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.models.config import PromptEncoderConfig
from ldis_jax.support.json_files import read_json
from ldis_jax.weights.network_files import TRANSFORMERS, open_file, open_network
from ldis_jax.weights.tensors import LazyTensor, Weights, from_array

# OpenAI's encoders all have heads of 64; their files do not say so.
_HEAD_DIM = 64
# Of the text side of CLIP, and the sizes that TorchScript archives carry as tensors.
_TEXT = re.compile(
    r"(transformer|token_embedding|ln_final|text_model)\..*|positional_embedding|text_projection(\.weight)?|"
    r"logit_scale|input_resolution|context_length|vocab_size"
)
# transformers' names -> OpenAI's; q, k and v are joined before.
_TRANSFORMERS_NAMES = (
    (r"embeddings\.class_embedding", "class_embedding"),
    (r"embeddings\.patch_embedding\.weight", "conv1.weight"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"pre_layrnorm\.(weight|bias)", r"ln_pre.\1"),
    (r"post_layernorm\.(weight|bias)", r"ln_post.\1"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", r"transformer.resblocks.\1.ln_\2.\3"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(weight|bias)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(weight|bias)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.(in|out)_proj\.(weight|bias)", r"transformer.resblocks.\1.attn.\2_proj.\3"),
)
# Fields of transformers' CLIPVisionConfig -> (our field, transformers' default).
_TRANSFORMERS_SIZES = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
    "hidden_size": ("width", 768),
    "num_hidden_layers": ("layers", 12),
    "num_attention_heads": ("heads", 12),
}


def rename_tower(name: str) -> str | None:
    """Alpha-CLIP's name of a tensor of the image encoder; None for what LDIS has no use for.

    CLIP's final norm and projection are not part of LDIS, which reads the tokens of the last block unnormalised.
    """
    if name in ("ln_post.weight", "ln_post.bias", "proj"):
        return None
    return re.sub(r"\.in_proj_(weight|bias)$", r".in_proj.\1", name)  # as torch's own attention calls it


def open_prompt_encoder(
    clip: Path | None, alpha_clip: Path | None, *, zero_alpha: bool = False
) -> tuple[PromptEncoderConfig, Weights]:
    """A prompt encoder from CLIP, from Alpha-CLIP, or from Alpha-CLIP's tensors over CLIP's.

    Args:
        clip: OpenAI's ``ViT-L-14.pt`` (a TorchScript archive or a state dict), or a transformers folder.
        alpha_clip: Alpha-CLIP's ``.pth``, whole if there is no ``clip``.
        zero_alpha: give plain CLIP an alpha convolution of zeros, as Alpha-CLIP starts its training.

    Raises:
        LDISError: a file that is no image encoder.
    """
    config: PromptEncoderConfig | None = None
    weights: Weights | None = None
    if clip is not None and clip.is_dir():
        config, weights = _open_transformers(clip)
    elif clip is not None:
        weights = _open_tower(open_file(clip, torchscript=True))
    needed = {"conv1.weight": 4, "positional_embedding": 2}
    if alpha_clip is not None:
        alpha = _open_tower(open_file(alpha_clip))
        weights = alpha if weights is None else weights.overlaid(alpha.tensors, alpha.where)
        needed["conv1_alpha.weight"] = 4
    assert weights is not None  # the command asks for one of them
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    for name, axes in needed.items():
        if len(shapes.get(name, ())) != axes:
            raise LDISError(
                f"{weights.where}: no tensor {name} with {axes} axes; expected CLIP's ViT-L/14 or like it, and of "
                "--alpha_clip one with alpha"
            )
    config = config or _sizes(shapes, weights.where)
    if zero_alpha and "conv1_alpha.weight" not in shapes:
        width, _, *patch = shapes["conv1.weight"]
        weights = weights.overlaid({"conv1_alpha.weight": from_array(np.zeros((width, 1, *patch), np.float32))})
    return dataclasses.replace(config, alpha="conv1_alpha.weight" in weights.tensors), weights


def _open_tower(weights: Weights) -> Weights:
    """The image encoder of a state dict in OpenAI's names, with or without the text side."""
    if "visual.conv1.weight" in weights.tensors:

        def visual(name: str) -> str | None:
            return None if _TEXT.fullmatch(name) else name.removeprefix("visual.")

        weights = weights.rename(visual)
    return weights.rename(rename_tower)


def _sizes(shapes: Mapping[str, tuple[int, ...]], where: str) -> PromptEncoderConfig:
    """The encoder's sizes from its tensors' shapes."""
    width, *_, patch = shapes["conv1.weight"]
    grid = math.isqrt(max(shapes["positional_embedding"][0] - 1, 0))
    layers = {match[1] for name in shapes if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))}
    values = {
        "image_size": grid * patch,
        "patch_size": patch,
        "width": width,
        "layers": len(layers),
        "heads": width // _HEAD_DIM,
    }
    return PromptEncoderConfig.from_dict(values, where)


def _open_transformers(folder: Path) -> tuple[PromptEncoderConfig, Weights]:
    path = folder / "config.json"
    values = read_json(path)
    vision = values.get("vision_config")
    values = vision if isinstance(vision, dict) else values
    for key, expected in {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}.items():  # transformers' defaults, too
        if values.get(key, expected) != expected:
            raise LDISError(f"{path}: {key}={values[key]!r}; the prompt encoder has {expected!r}")
    sizes = {ours: values.get(key, default) for key, (ours, default) in _TRANSFORMERS_SIZES.items()}
    config = PromptEncoderConfig.from_dict(sizes, str(path))
    return config, _rename_transformers(open_network(folder, TRANSFORMERS))


def _rename_transformers(weights: Weights) -> Weights:
    def vision(name: str) -> str | None:
        if _TEXT.fullmatch(name) or name.endswith("position_ids") or name == "visual_projection.weight":
            return None
        return name.removeprefix("vision_model.")

    def openai(name: str) -> str | None:
        for pattern, target in _TRANSFORMERS_NAMES:
            if match := re.fullmatch(pattern, name):
                return rename_tower(match.expand(target))
        return name  # reported as unused

    weights = weights.rename(vision)
    tensors = dict(weights.tensors)
    for name in list(tensors):
        if match := re.fullmatch(r"(.*\.self_attn)\.q_proj\.(weight|bias)", name):
            parts = [f"{match[1]}.{part}_proj.{match[2]}" for part in "qkv"]
            if all(part in tensors and tensors[part].shape == tensors[name].shape for part in parts):
                tensors[f"{match[1]}.in_proj.{match[2]}"] = _joined([tensors.pop(part) for part in parts])
    return Weights(tensors, weights.where).rename(openai)


def _joined(parts: list[LazyTensor]) -> LazyTensor:
    shape = (len(parts) * parts[0].shape[0], *parts[0].shape[1:])
    return LazyTensor(shape, parts[0].dtype, lambda: np.concatenate([part.read() for part in parts]))
