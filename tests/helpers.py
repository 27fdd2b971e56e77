"""The smallest networks that have every part, and a run that uses them."""

import dataclasses
import importlib.util
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldis_jax.config import base_config
from ldis_jax.models.config import AutoencoderConfig, EfficientNetConfig, PromptEncoderConfig, UNetConfig
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.recipes.data import eval_set, procedural_source
from ldis_jax.runtime import sharding
from ldis_jax.support import cli
from ldis_jax.tasks import LDIS1, LDISN
from ldis_jax.training.run import Run

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
SHARED = ROOT.parent / "shared" / "data"
CASES = ROOT.parent / "shared" / "cases"  # files as people have them
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there")

SIZE = 16
_UNET = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=8,
    encoder_hid_dim=16,
    norm_num_groups=4,
)
_VAE = AutoencoderConfig(block_out_channels=(4, 8, 8), layers_per_block=1, norm_num_groups=4)
# OpenAI's files do not tell the number of heads: width / 64.
CLIP_TOWER = PromptEncoderConfig(image_size=SIZE, patch_size=8, width=64, layers=1, heads=1)
_TOWER = PromptEncoderConfig(image_size=SIZE, patch_size=8, width=16, layers=1, heads=2)
MICRO = {
    "ldis1": ModelConfig(_UNET, _VAE, _TOWER),
    "ldisn": ModelConfig(dataclasses.replace(_UNET, in_channels=8), _VAE, _TOWER),
}
# LDIS-1 with EfficientNet-Lite0 in the place of Alpha-CLIP, as the bundled model `small` has it.
_EFFICIENT = EfficientNetConfig(image_size=2 * SIZE)
MICRO_EFFICIENT = ModelConfig(
    dataclasses.replace(_UNET, in_channels=4 + _EFFICIENT.query_channels, encoder_hid_dim=_EFFICIENT.width),
    _VAE,
    _EFFICIENT,
)


def micro_task(name):
    """The task that goes with ``MICRO[name]``."""
    return LDIS1(image_size=SIZE) if name == "ldis1" else LDISN(image_size=SIZE, num_steps=3)


def micro_config(folder, task="ldis1"):
    """A run of eight steps on painted scenes, evaluated on six episodes."""
    config = base_config(task)
    config.task.image_size = SIZE
    config.init.folder = str(folder)
    config.train_steps, config.batch_size = 8, 8
    config.optim.learning_rate, config.optim.warmup_steps = 1e-3, 2
    config.data.augment, config.data.num_workers = False, 0
    config.data.sources.scenes = procedural_source("train")
    config.eval.batch_size = 4
    config.eval.sets.unseen = eval_set(procedural_source("unseen"), episodes=6)
    config.eval.prompt_swap, config.eval.pictures = 1, 2
    config.log_every, config.eval_every, config.checkpoint_every = 2, 4, 4
    if task == "ldisn":
        config.task.num_steps = 2
    return config


def run_of(config, mesh=None):
    """The run of a config on this machine, on all devices unless a mesh is given."""
    return Run.from_config(config, mesh or sharding.make_mesh(**config.mesh), "cpu")


def call_command(main, monkeypatch, capsys, *arguments):
    """(exit status, standard output, standard error) of a command's ``main`` in this process."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    status = 0
    try:
        cli.run(main)
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


def paint_pair(image, mask, label, size=(40, 30)):
    """Writes an image of noise, (width, height), and its label map with one rectangle."""
    labels = np.zeros(size[::-1], np.uint8)
    labels[5:20, 5:25] = label
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    for path, array in ((image, noise), (mask, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def load_script(path):
    """A file outside the package, such as ``tools/speed_tables.py``, as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def free_port():
    """A port of localhost that nobody listens on."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def classes_of(source):
    """Labels by image that an indexed source draws, in the order of the split."""
    found = {}
    for row, label in zip(source._rows, source._labels.tolist(), strict=True):
        found.setdefault(source.index.names[row].decode(), []).append(label)
    return found


def images_of(source):
    """Images by label."""
    found = {}
    for name, labels in classes_of(source).items():
        for label in labels:
            found.setdefault(label, []).append(name)
    return found
