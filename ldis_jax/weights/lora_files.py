"""LoRA alone: what a run with ``config.lora`` trained, in a small file of its own, and that file merged into its base.

The file is ``pytorch_lora_weights.safetensors`` in diffusers' naming, ``unet.PATH.lora_A.weight`` [r, in] and
``unet.PATH.lora_B.weight`` [out, r], the scale multiplied into B so that W + B A is the trained layer. What was trained
whole lies beside, under its own name (``unet.encoder_hid_proj.weight``). The header's metadata carry the task.
"""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldis_jax.errors import LDISError, list_names
from ldis_jax.models.lora import LoRA
from ldis_jax.support.files import reading
from ldis_jax.support.json_files import parse_json
from ldis_jax.tasks import Task, task_from_dict
from ldis_jax.weights.network_files import open_file
from ldis_jax.weights.rules import Entry
from ldis_jax.weights.tensors import LazyTensor, Weights, cast, write_safetensors

LORA_FILE = "pytorch_lora_weights.safetensors"
_PREFIX = "unet."
_TASK_KEY = "ldis_config"


class TrainedLoRA(NamedTuple):
    """The content of a LoRA file."""

    task: Task | None  # None where another program wrote it
    weights: Weights  # names without "unet."


def fresh_pairs(entries: Mapping[str, Entry], lora: LoRA, seed: int) -> dict[str, LazyTensor]:
    """A and B before the first step: A normal with standard deviation 1 / r, B zeros, so that B A is 0.

    The rule of diffusers' ``LoRALinearLayer`` and of peft's "gaussian"; each A is a function of (seed, its name).
    ``entries`` are the table of a UNet with LoRA.
    """

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith(".lora_B.weight"):
            return np.zeros(shape, np.float32)
        rng = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
        return rng.standard_normal(shape, np.float32) / np.float32(lora.rank)

    names = [name for name in entries if re.search(r"\.lora_[AB]\.weight$", name)]
    return {n: LazyTensor(entries[n].shape, "float32", functools.partial(draw, n, entries[n].shape)) for n in names}


def trained_part(unet: Mapping[str, LazyTensor], lora: LoRA) -> Weights:
    """Of the tensors of a UNet with LoRA, those that were trained, with the scale in B."""

    def scaled(tensor: LazyTensor) -> LazyTensor:
        return LazyTensor(tensor.shape, tensor.dtype, lambda: np.float32(lora.scale) * tensor.read())

    trained = {name: tensor for name, tensor in unet.items() if lora.trains(name)}
    return Weights({n: scaled(t) if n.endswith(".lora_B.weight") else t for n, t in trained.items()}, "LoRA")


def write_lora(path: Path, task: Task, weights: Weights, dtype: str = "float32") -> None:
    """Writes :func:`trained_part` as the file that the module's docstring describes."""
    tensors = {f"{_PREFIX}{name}": cast(tensor, dtype) for name, tensor in weights.tensors.items()}
    write_safetensors(path, tensors, metadata={_TASK_KEY: json.dumps(task.to_dict())})


def open_lora(path: Path) -> TrainedLoRA:
    """A LoRA file, or the folder it lies in."""
    path = path / LORA_FILE if path.is_dir() else path
    weights = open_file(path)
    text = weights.metadata.get(_TASK_KEY)
    with reading(f"{path}: {_TASK_KEY}"):
        task = None if text is None else task_from_dict(parse_json(text), str(path))
    return TrainedLoRA(task, weights.rename(lambda name: name.removeprefix(_PREFIX)))


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
