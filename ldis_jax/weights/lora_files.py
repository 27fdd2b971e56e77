"""LoRA alone: what a run with ``config.lora`` trained, in a small file of its own, and that file merged into its base.

The file is ``pytorch_lora_weights.safetensors`` in diffusers' naming, ``unet.PATH.lora_A.weight`` [r, in] and
``unet.PATH.lora_B.weight`` [out, r], the scale multiplied into B so that W + B A is the trained layer. What was trained
whole lies beside, under its own name (``unet.encoder_hid_proj.weight``). The header's metadata carry the task, and the
card of the model that the base becomes. Files of diffusers, from 0.33 on, carry peft's config there instead, whose
alpha / r is the scale.
"""

from __future__ import annotations

import functools
import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.errors import LDISError, list_names
from ldis_jax.models.lora import LoRA
from ldis_jax.support.files import reading
from ldis_jax.support.json_files import of_kind, parse_json
from ldis_jax.tasks import Task, task_from_dict
from ldis_jax.weights.network_files import open_file
from ldis_jax.weights.rules import Entry
from ldis_jax.weights.tensors import LazyTensor, Weights, cast, write_safetensors

T = TypeVar("T")

LORA_FILE = "pytorch_lora_weights.safetensors"
_PREFIX = "unet."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_TASK_KEY = "ldis_config"
_CARD_KEY = "ldis_card"
_ADAPTER_KEY = "lora_adapter_metadata"  # diffusers'
_OF_TRAINING = frozenset(  # keys of peft's config that change no weights once those are trained
    {"target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "inference_mode"}
    | {"task_type", "base_model_name_or_path", "revision", "auto_mapping", "peft_version", "qalora_group_size"}
    | {"megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"}
)
_LONGEST_NAME = 500
_NEUTRAL = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
# Of names of modules; what can take a matcher for ever is no part of one.
_PATTERN = re.compile(r"\^?(?:\\\.|[\w.])*(?:\.\*(?:\\\.|[\w.])*){0,2}\$?")


class _Adapter(TypedDict, total=False):
    """The fields of peft's ``LoraConfig`` that decide the scale."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    r: Annotated[int, Field(gt=0)]
    lora_alpha: float
    rank_pattern: dict[str, int] | None
    alpha_pattern: dict[str, float] | None
    use_rslora: bool


class TrainedLoRA(NamedTuple):
    """The content of a LoRA file."""

    task: Task | None  # None where another program wrote it
    weights: Weights  # names without "unet."
    card: str | None  # of base and LoRA together


def fresh_pairs(entries: Mapping[str, Entry], lora: LoRA, seed: int) -> dict[str, LazyTensor]:
    """A and B before the first step: A normal with standard deviation 1 / r, B zeros, so that B A is 0.

    The rule of diffusers' ``LoRALinearLayer`` and of peft's "gaussian"; each A is a function of (seed, its name).
    ``entries`` are the table of a UNet with LoRA.
    """

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith(_B):
            return np.zeros(shape, np.float32)
        rng = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
        return rng.standard_normal(shape, np.float32) / np.float32(lora.rank)

    names = [name for name in entries if re.search(r"\.lora_[AB]\.weight$", name)]
    return {n: LazyTensor(entries[n].shape, "float32", functools.partial(draw, n, entries[n].shape)) for n in names}


def trained_part(unet: Mapping[str, LazyTensor], lora: LoRA) -> Weights:
    """The trained tensors of a UNet with LoRA, with the scale in B."""
    trained = {name: tensor for name, tensor in unet.items() if lora.trains(name)}
    return Weights({n: _scaled(t, lora.scale) if n.endswith(_B) else t for n, t in trained.items()}, "LoRA")


def write_lora(path: Path, task: Task, weights: Weights, card: str, dtype: str = "float32") -> None:
    """Writes :func:`trained_part` as the file that the module's docstring describes."""
    tensors = {f"{_PREFIX}{name}": cast(tensor, dtype) for name, tensor in weights.tensors.items()}
    write_safetensors(path, tensors, metadata={_TASK_KEY: json.dumps(task.to_dict()), _CARD_KEY: card})


def open_lora(path: Path) -> TrainedLoRA:
    """A LoRA file, or the folder it lies in.

    Raises:
        LDISError: no such file; a scale or another change of weights that is not implemented here.
    """
    path = path / LORA_FILE if path.is_dir() else path
    weights = open_file(path)
    text, card = weights.metadata.get(_TASK_KEY), weights.metadata.get(_CARD_KEY)
    with reading(f"{path}: {_TASK_KEY}"):
        task = None if text is None else task_from_dict(parse_json(text), str(path))
    weights = weights.rename(lambda name: name.removeprefix(_PREFIX))
    if (text := weights.metadata.get(_ADAPTER_KEY)) is not None:
        with reading(f"{path}: {_ADAPTER_KEY}"):
            weights = _with_scales(weights, parse_json(text))
    return TrainedLoRA(task, weights, card)


def _with_scales(weights: Weights, metadata: dict[str, Any]) -> Weights:
    """The tensors with peft's scale in B: alpha / r, or alpha / sqrt(r)."""
    own = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
    config: dict[str, Any] = of_kind(own or metadata, _Adapter)
    known = _Adapter.__annotations__.keys() | _OF_TRAINING
    wrong = [k for k, v in config.items() if k not in known and v and v not in _NEUTRAL.get(k, ())]
    ranks, alphas = (config.get(f"{name}_pattern") or {} for name in ("rank", "alpha"))
    wrong += [f"pattern {pattern!r:.80}" for pattern in (*ranks, *alphas) if not _PATTERN.fullmatch(pattern)]
    wrong += [f"the name {name:.80}..." for name in weights.tensors if len(name) > _LONGEST_NAME]
    tensors = dict(weights.tensors)
    for layer in () if wrong else [name.removesuffix(_B) for name in tensors if name.endswith(_B)]:
        rank, b = _of_layer(ranks, layer, config.get("r", 8)), tensors[f"{layer}{_B}"]  # 8: peft's
        if b.shape[1:] != (rank,):
            wrong.append(f"rank {rank} of {layer} with B {list(b.shape)}")
        alpha = _of_layer(alphas, layer, config.get("lora_alpha", 8))
        tensors[f"{layer}{_B}"] = _scaled(b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    if wrong:
        raise LDISError(
            f"{weights.where}: a LoRA with {list_names(wrong)}, which cannot be merged here; merge it in diffusers, "
            "and convert that"
        )
    return weights._replace(tensors=tensors)


def _of_layer(values: Mapping[str, T], layer: str, default: T) -> T:
    """By the first pattern that the name ends in, as peft takes it."""
    return next((value for pattern, value in values.items() if re.match(rf"(.*\.)?({pattern})$", layer)), default)


def _scaled(tensor: LazyTensor, scale: float) -> LazyTensor:
    return LazyTensor(tensor.shape, tensor.dtype, lambda: np.float32(scale) * tensor.read())


def merge(base: Weights, lora: Weights) -> Weights:
    """A UNet with W + B A in place of W, in float32; what was trained whole replaces the base's.

    Raises:
        LDISError: no pairs, or one that is incomplete or does not fit the base. Another tensor that the base lacks
            stays, for :func:`~ldis_jax.weights.rules.match` to name.
    """
    merged = {name: cast(tensor, "float32") for name, tensor in base.tensors.items()}
    added = dict(lora.tensors)
    where, wrong = f"{lora.where} over {base.where}", []
    layers = {match[1] for name in added if (match := re.fullmatch(r"(.+)\.lora_[AB]\.weight", name))}
    for layer in sorted(layers):
        a, b = (added.pop(f"{layer}.lora_{part}.weight", None) for part in "AB")
        kernel = merged.get(f"{layer}.weight")
        if a is None or b is None or kernel is None or not _fits(a.shape, b.shape, kernel.shape):
            shapes = [tensor and list(tensor.shape) for tensor in (a, b, kernel)]
            wrong.append(f"{layer} with A {shapes[0]}, B {shapes[1]}, weight {shapes[2]}")
        else:
            merged[f"{layer}.weight"] = _sum(kernel, a, b)
    wrong += [name for name in added if ".lora_" in name]
    if wrong or not layers:
        found = list_names(wrong) or "no tensor unet.*.lora_A.weight"
        raise LDISError(f"{where}: no LoRA of this model in diffusers' naming: {found}")
    return Weights({**merged, **{name: cast(tensor, "float32") for name, tensor in added.items()}}, where)


def _fits(a: tuple[int, ...], b: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """[r, in] and [out, r] for [out, in]."""
    return len(a) == len(b) == len(kernel) == 2 and (b[0], a[1]) == kernel and b[1] == a[0]


def _sum(kernel: LazyTensor, a: LazyTensor, b: LazyTensor) -> LazyTensor:
    def read() -> np.ndarray:
        return kernel.read() + np.matmul(b.read(), a.read(), dtype=np.float32)

    return LazyTensor(kernel.shape, "float32", read)
