"""Every variant of configs/ablations.py: it says what it is, and trains, on the smallest networks."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.errors import LDISError
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.runtime import sharding
from ldis_jax.tasks import task_from_dict
from ldis_jax.training.step import StepMetrics, init_state, make_train_step
from ldis_jax.weights import save_model
from tests.helpers import MICRO, ROOT, SIZE, load_script, micro_task, run_of
from tests.reference import cases
from tests.reference.weights import random_model

FILE = load_script(ROOT / "configs" / "ablations.py")
VARIANTS = sorted(FILE.VARIANTS)


def changes(config: ConfigDict) -> dict[str, object]:
    """What a variant changes of the recipe, data left out."""
    base, flat = {}, {}
    for found, values in ((base, base_config(config.task.task)), (flat, config)):
        for section in ("task", "lora", "optim"):
            found |= {f"{section}.{key}": value for key, value in values[section].items()}
        found |= {key: values[key] for key in ("train_steps", "batch_size", "num_shots", "seed")}
    return {key: value for key, value in flat.items() if base[key] != value}


def test_ablations_has_every_variant():
    assert set(VARIANTS) == {
        *(f"ldis1_{name}" for name in ("pixel", "lora_rank1", "lora_rank4", "noised", "plain_clip")),
        *(f"ldisn_{name}" for name in ("pre_mask", "post_mask", "no_mask", "vanilla", "perturbed", "added")),
    }
    configs = {variant: FILE.get_config(variant) for variant in VARIANTS}
    assert {variant: changes(config) for variant, config in configs.items()} == FILE.VARIANTS
    assert all(variant.startswith(f"{config.task.task}_") for variant, config in configs.items())
    assert len({(config.task.task, str(changes(config))) for config in configs.values()}) == len(VARIANTS)


def test_ablations_get_config_takes_the_records_folder():
    config = FILE.get_config("ldisn_pre_mask:/share/records")
    assert config.data.sources.vspw.root == "/share/records/vspw" and config.task.masking == "pre"
    assert config.eval.sets.pascal.source.root == "/share/records/pascal"


@pytest.mark.parametrize("variant", ["", "ldis1"])
def test_ablations_get_config_lists_the_variants_to_an_unknown_one(variant):
    with pytest.raises(
        LDISError, match=f"ablations.py:{variant or 'VARIANT'}: must be one of ldis1_pixel, .*ldisn_added"
    ):
        FILE.get_config(variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ablations_header_says_what_each_variant_is(variant):
    text = FILE.__doc__
    for part in ("Paper:", "Command:", "Needs:", "Hardware:", "Time:", "Expected:"):
        assert f"\n{part}" in text
    assert "--config=configs/ablations.py:VARIANT" in text
    assert re.search(rf"^{variant} +\S.*\n +Paper: ", text, re.MULTILINE)
    assert f"ablations.py:{variant}`" in (ROOT / "docs" / "variants.md").read_text()
    assert task_from_dict(FILE.get_config(variant).task.to_dict(), variant)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """The smallest model folders: ldis1/, ldisn/ and ldis1_plain_clip/."""
    root = tmp_path_factory.mktemp("ablations")
    for name, config in MICRO.items():
        save_model(root / name, micro_task(name), random_model(config))
    config = MICRO["ldis1"]
    tower = type(config.prompt_encoder)(**{**vars(config.prompt_encoder), "alpha": False})
    folder = shutil.copytree(root / "ldis1", root / "ldis1_plain_clip")
    task = dataclasses.replace(micro_task("ldis1"), masking="post")
    save_model(folder, task, random_model(ModelConfig(config.unet, config.vae, tower)))
    return root


def episodes() -> dict[str, np.ndarray]:
    images, masks = cases.prompts(1, batch=2, size=SIZE)
    return {
        "query_image": cases.random_images("ablations", 2, size=SIZE),
        "query_mask": cases.random_masks("ablations", 2, SIZE),
        "prompt_images": images,
        "prompt_masks": masks,
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_ablations_variants_take_two_training_steps(variant, folders):
    config = FILE.get_config(variant)
    folder = variant if variant == "ldis1_plain_clip" else config.task.task
    assert f"pretrained/{folder}" in FILE.__doc__
    config.init.folder, config.task.image_size = str(folders / folder), SIZE
    config.optim.warmup_steps, config.optim.learning_rate = 0, 1e-3
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.numpy_dtype_promotion("standard"):  # of optax
        run = run_of(config, mesh)
    graphdef, params, frozen, frozen_files = run.start()
    assert ("unet" in frozen_files) == (config.lora.rank > 0)
    with jax.numpy_dtype_promotion("standard"):  # as in test_train
        state, placed = init_state(params, run.optimizer, mesh)
        before = {name: np.asarray(value) for name, value in state.params.items()}
        step = make_train_step(run.task, graphdef, run.optimizer, config.seed, mesh, placed)
        metrics, frozen, batch = jax.device_put(
            (StepMetrics.empty(), frozen, episodes()),
            (sharding.replicated(mesh), sharding.replicated(mesh), sharding.batch_sharding(mesh)),
        )
        step = step.lower(state, metrics, frozen, batch).compile()
        for _ in range(2):
            state, metrics = step(state, metrics, frozen, batch)
        assert int(state.step) == 2 and np.isfinite(metrics.compute()["loss"])
    assert before.keys() == state.params.keys()
    still = [name for name, value in state.params.items() if (np.asarray(value) == before[name]).all()]
    assert not still  # what is trained moves, A of LoRA from the second step on; nothing else is in the state
