"""Which files of a folder hold a network's weights, and their tensors as one :class:`Weights`.

The forms that diffusers and transformers write, in the order of preference: safetensors, sharded safetensors with an
index, torch's ``.bin``, sharded ``.bin``; each whole, or as a variant such as "fp16".
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.errors import LDISError, list_names
from ldis_jax.support.files import reading
from ldis_jax.support.json_files import read_json
from ldis_jax.weights.tensors import LazyTensor, Weights, is_safetensors, open_safetensors
from ldis_jax.weights.torch_files import open_torch


class _Index(TypedDict):
    weight_map: dict[str, str]  # tensor -> file


# Stems of (safetensors, .bin) files; our prompt encoder has transformers' names.
DIFFUSERS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
TRANSFORMERS = ("model", "pytorch_model")
STEMS = {"unet": DIFFUSERS, "vae": DIFFUSERS, "prompt_encoder": TRANSFORMERS}


def find_weights(names: Collection[str], stems: tuple[str, str], variant: str | None = None) -> str | None:
    """The preferred weight file or index among file names; without a ``variant``, "fp16" where nothing else is."""
    for suffix in (f".{variant}",) if variant else ("", ".fp16"):
        for stem, kind in zip(stems, ("safetensors", "bin"), strict=True):
            for name in (f"{stem}{suffix}.{kind}", f"{stem}.{kind}.index{suffix}.json"):
                if name in names:
                    return name
    return None


def open_network(folder: Path, stems: tuple[str, str], variant: str | None = None) -> Weights:
    """Tensors of ``unet/``, ``vae/``, ``prompt_encoder/`` or a transformers folder.

    ``stems`` are :data:`DIFFUSERS` or :data:`TRANSFORMERS`; ``variant`` is the file's ("fp16", "non_ema"), and None
    takes the plain file, or "fp16" where there is no other.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    name = find_weights(names, stems, variant)
    if name is None:
        kinds = (".safetensors", ".bin", ".pt", ".msgpack", ".onnx")
        there = list_names(n for n in names if n.endswith(kinds)) or "no weight file"
        wanted = f"{stems[0]}{f'.{variant}' if variant else ''}.safetensors"
        raise LDISError(f"{folder / wanted}: no such file, nor another form of it; the folder has {there}")
    path = folder / name
    return _open_sharded(path) if name.endswith(".json") else open_file(path)


def open_file(path: Path, *, torchscript: bool = False) -> Weights:
    """A safetensors file, or one of torch's; see :func:`open_torch` about ``torchscript``."""
    with reading(path):
        return open_safetensors(path) if is_safetensors(path) else open_torch(path, torchscript=torchscript)


def _open_sharded(index: Path) -> Weights:
    """All shards that an index names, each tensor where the index says it is."""
    expected: dict[str, set[str]] = {}
    for name, file in read_json(index, _Index)["weight_map"].items():
        expected.setdefault(file, set()).add(name)
    tensors: dict[str, LazyTensor] = {}
    wrong = [file for file in expected if Path(file).name != file]  # outside the folder
    for file in () if wrong else sorted(expected):
        shard = open_file(index.parent / file)
        wrong += shard.tensors.keys() ^ expected[file]
        tensors |= shard.tensors
    if wrong or not tensors:
        what = list_names(wrong) or "weight_map"
        raise LDISError(f"{index}: disagrees with the files beside it about {what}; fetch them again")
    return Weights(tensors, str(index))
