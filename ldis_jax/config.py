"""The configuration of a run: every key, its default and its meaning.

Files under ``configs/`` start from :func:`base_config` and change what differs. The result is locked: an unknown key,
in a file or on the command line, is an error.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ldis_jax.errors import LDISError
from ldis_jax.models.layers import REMAT
from ldis_jax.support.checks import (
    MOST_PROCESSES,
    MOST_ROWS,
    MOST_STEPS,
    check_fields,
    check_integer,
    check_number,
)
from ldis_jax.tasks import task_from_dict
from ldis_jax.weights.hub import named
from ldis_jax.weights.named_models import TABLE

# Keys -> their least and greatest values.
_INTEGERS = {
    **dict.fromkeys(("batch_size", "num_shots", "eval.batch_size", "step.accumulate"), (1, MOST_ROWS)),
    **dict.fromkeys(
        ("train_steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints"), (1, MOST_STEPS)
    ),
    **dict.fromkeys(("eval.pictures", "eval.prompt_swap", "eval.patience"), (0, MOST_ROWS)),
    "optim.warmup_steps": (0, MOST_STEPS),
    "data.num_workers": (0, MOST_PROCESSES),
}


@dataclasses.dataclass(frozen=True)
class _SourceEntry:
    """An entry that the ``_source`` functions of :mod:`ldis_jax.recipes.data` return."""

    kind: str
    split: str
    weight: float
    root: str
    classes: object  # integers or, of a folder, text; the source says which there are
    skip_bad: bool
    others: bool


@dataclasses.dataclass(frozen=True)
class _EvalSetEntry:
    """An entry that ``eval_set`` returns."""

    source: object
    episodes: int
    manifest: str
    protocol: str
    num_shots: int
    seed: int
    absent: float


def base_config(task: str) -> ConfigDict:
    """The paper's recipe for "ldis1" or "ldisn", without data."""
    config = ConfigDict()
    config.seed = 123

    # What ldis_config.json holds: fields of tasks.LDIS1 or tasks.LDISN. Empty takes those of the init folder.
    config.task = ConfigDict(task_from_dict({"task": task}, "base_config").to_dict())

    config.init = ConfigDict()
    # Folder with vae/, prompt_encoder/ and, unless config.init.unet is given, unet/; "tiny" and "small" are bundled.
    config.init.folder = f"pretrained/{task}"
    # Sizes of a UNet to train from scratch (keys of models.UNetConfig); empty takes the folder's weights.
    config.init.unet = ConfigDict()
    # What such a UNet regresses in LDIS-n: "epsilon" or "v_prediction"; empty takes the folder's schedule.
    config.init.prediction_type = ""

    # Trains low-rank pairs on q, k, v and o of the UNet's attention in place of the UNet.
    config.lora = ConfigDict()
    config.lora.rank = 0  # 0 trains the UNet
    config.lora.alpha = 0.0  # the pairs' product is scaled by alpha / rank; 0 stands for the rank itself
    # Trained whole beside the pairs: the adapter, which is new, and LDIS-n's conv_in, whose new channels start at 0.
    config.lora.also = ("encoder_hid_proj",) if task == "ldis1" else ("encoder_hid_proj", "conv_in")

    config.dtype = "auto"  # of compute: "bfloat16", "float32", or "auto": bfloat16 on TPU and GPU

    # Devices that a CPU is split into. Small networks leave cores idle; a device a core keeps them busy.
    config.cpu_devices = 1

    # Devices are slices x data x fsdp; fsdp of them share one copy of parameters, gradients and moments. -1: the rest.
    config.mesh = ConfigDict({"slices": 1, "data": -1, "fsdp": 1})

    # Memory against time; docs/tpu.md has what each costs.
    config.remat = "none"  # what the backward pass computes again: "none", "dots" or "blocks"
    config.step = ConfigDict()
    config.step.accumulate = 1  # parts that a batch is computed in, one after the other
    config.step.grad_dtype = "float32"  # of gradients and their sum; products in bfloat16 make bfloat16 ones anyway
    config.step.ema_decay = 0.0  # of an average of the parameters that is evaluated and exported; 0 keeps none

    config.train_steps = 160_000
    config.batch_size = 64  # over all devices
    config.num_shots = 1  # prompts an episode in training (K)

    config.optim = ConfigDict()
    config.optim.learning_rate = 1e-5
    config.optim.schedule = "constant"  # or "cosine"
    config.optim.warmup_steps = 10_000
    config.optim.b1 = 0.9
    config.optim.b2 = 0.999
    config.optim.eps = 1e-8
    config.optim.weight_decay = 1e-2
    config.optim.grad_clip = 1.0
    config.optim.moment_dtype = "float32"  # how Adam's moments are stored; "bfloat16" halves their memory

    config.data = ConfigDict()
    config.data.augment = True
    config.data.rescale = (0.9, 1.1)  # random scales of augmentation; 1 has the short side at task.image_size
    # The share of episodes whose query does not show what is prompted, so that nothing is to be found. The paper: none.
    config.data.absent = 0.0
    config.data.num_workers = 8  # processes that make batches; 0 uses threads
    config.data.sources = ConfigDict()  # name -> voc_source(...), or another of the functions below

    config.eval = ConfigDict()
    config.eval.batch_size = 32
    config.eval.sets = ConfigDict()  # name -> eval_set(...)
    config.eval.main_set = ""  # the one that report.json is about; may be empty where there is one set
    config.eval.prompt_swap = 0  # pairs of procedural episodes for the prompt-swap figure
    config.eval.pictures = 8  # episodes on the image sheet, of the main set
    # A set whose mIoU chooses the step that is kept. The other sets are evaluated before and after training only. Empty
    # evaluates all on the way, and keeps the last step.
    config.eval.choose_by = ""
    config.eval.patience = 0  # evaluations without a better one after which training ends; 0 trains to the end
    # Sets, with commas between and not reported themselves, on which the score of a mask, and the threshold below which
    # it is empty, are fitted at the end: of classes that were trained on, and images that were not. Empty: none.
    config.eval.calibrate_by = ""
    config.eval.before = False  # also before the first step, for what training changes

    config.log_every = 50
    config.eval_every = 10_000
    config.checkpoint_every = 5_000
    config.keep_checkpoints = 3
    config.watchdog_minutes = 10.0  # without a step, after which every process prints where it is; 0: never
    # A file: the training step that ``python -m ldis_jax.compile``, or a run before, compiled; written if not there.
    config.executable = ""
    config.profile = ""  # a step, or "first:last" of a few, to trace into <workdir>/profile

    config.lock()
    for named_by_files in (config.data, config.eval.sets, config.init.unet):
        named_by_files.unlock()
    return config


def check_config(config: ConfigDict) -> None:
    """Raises :class:`LDISError` at a value that a run would meet late, or that would change it silently."""
    for path, value in jax.tree.leaves_with_path(config.to_dict(), is_leaf=lambda leaf: leaf is None):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if isinstance(value, float):
            check_number(f"config.{name}", value)
        if value is None and not name.startswith(("task.", "init.unet.")) and not name.endswith(".classes"):
            raise LDISError(f"config.{name}=None: must be given; leave the key out for its default")
    for group, kind in (("data.sources", _SourceEntry), ("eval.sets", _EvalSetEntry)):
        for name, entry in operator.attrgetter(group)(config).items():
            check_fields(kind, dict(entry), f"config.{group}.{name}")
    counts = {
        f"eval.sets.{name}.num_shots": (1, MOST_ROWS)
        for name, entry in config.eval.sets.items()
        if "num_shots" in entry
    }
    for key, (least, most) in (_INTEGERS | counts).items():
        check_integer(f"config.{key}", operator.attrgetter(key)(config), least, maximum=most)
    optim, dtypes = config.optim, ("float32", "bfloat16")
    for key, holds, words in (
        ("seed", 0 <= config.seed < 2**32, f"from 0 to {2**32 - 1}"),  # random keys tell no more apart
        ("watchdog_minutes", 0 <= config.watchdog_minutes <= 10**6, f"from 0 to {10**6}"),
        ("dtype", config.dtype in ("auto", *dtypes), "one of auto, float32, bfloat16"),
        ("remat", config.remat in REMAT, f"one of {', '.join(REMAT)}"),
        ("step.grad_dtype", config.step.grad_dtype in dtypes, "one of float32, bfloat16"),
        ("data.absent", 0 <= config.data.absent < 1, "from 0 on and below 1"),
        ("step.ema_decay", 0 <= config.step.ema_decay < 1, "from 0 on and below 1"),
        ("optim.learning_rate", optim.learning_rate >= 0, "not negative"),
        ("optim.schedule", optim.schedule in ("constant", "cosine"), "one of constant, cosine"),
        ("optim.b1", 0 <= optim.b1 < 1, "from 0 on and below 1"),
        ("optim.b2", 0 <= optim.b2 < 1, "from 0 on and below 1"),
        ("optim.eps", optim.eps > 0, "positive"),
        ("optim.weight_decay", optim.weight_decay >= 0, "not negative"),
        ("optim.grad_clip", optim.grad_clip > 0, "positive"),
        ("optim.moment_dtype", optim.moment_dtype in dtypes, "one of float32, bfloat16"),
    ):
        if not holds:
            raise LDISError(f"config.{key}={operator.attrgetter(key)(config)!r}: must be {words}")


def check_variant(file: str, variant: str, variants: Collection[str]) -> None:
    """Raises :class:`LDISError` where what follows the colon of ``--config=FILE:VARIANT`` is no variant."""
    if variant not in variants:
        raise LDISError(f"{file}:{variant or 'VARIANT'}: must be one of {', '.join(variants)}")


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON types, for the work folder."""
    return json.loads(config.to_json())


def init_folder(name: str) -> Path:
    """Where training starts from: ``config.init.folder``, a path or a named model, which is made on first use."""
    return named(name) if name in TABLE else Path(name)
