"""Every file under configs/ablations: it says what it is, and trains, on the smallest networks."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ldis_jax.config import base_config
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.runtime import sharding
from ldis_jax.tasks import task_from_dict
from ldis_jax.training.step import StepMetrics, init_state, make_train_step
from ldis_jax.weights import save_model
from tests.helpers import MICRO, ROOT, SIZE, micro_task, run_of
from tests.reference import cases
from tests.reference.weights import random_model

FILES = sorted((ROOT / "configs" / "ablations").glob("*.py"))


def load(path: Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def changes(config: ConfigDict) -> dict[str, object]:
    """What a file changes of the recipe, data left out."""
    base, flat = {}, {}
    for found, values in ((base, base_config(config.task.task)), (flat, config)):
        for section in ("task", "lora", "optim"):
            found |= {f"{section}.{key}": value for key, value in values[section].items()}
        found |= {key: values[key] for key in ("train_steps", "batch_size", "num_shots", "seed")}
    return {key: value for key, value in flat.items() if base[key] != value}


def test_all_variants_have_a_file():
    assert {path.stem for path in FILES} == {
        *(f"ldis1_{name}" for name in ("pixel", "lora_rank1", "lora_rank4", "noised", "plain_clip")),
        *(f"ldisn_{name}" for name in ("pre_mask", "post_mask", "no_mask", "vanilla", "perturbed", "added")),
    }
    configs = [load(path) for path in FILES]
    assert len({(config.task.task, str(changes(config))) for config in configs}) == len(FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_header_says_what_it_is(path):
    text = path.read_text()
    for part in ("Paper:", "Command:", "Needs:", "Hardware:", "Time:", "Expected:"):
        assert f"\n{part}" in text
    assert f"--config=configs/ablations/{path.stem}.py" in text
    assert f"ablations/{path.stem}.py" in (ROOT / "docs" / "variants.md").read_text()
    assert task_from_dict(load(path).task.to_dict(), str(path))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """The smallest model folders: ldis1/, ldisn/ and ldis1_plain_clip/."""
    root = tmp_path_factory.mktemp("ablations")
    for name, config in MICRO.items():
        save_model(root / name, micro_task(name), random_model(config))
    config = MICRO["ldis1"]
    tower = type(config.prompt_encoder)(**{**vars(config.prompt_encoder), "alpha": False})
    folder = shutil.copytree(root / "ldis1", root / "ldis1_plain_clip")
    save_model(folder, micro_task("ldis1"), random_model(ModelConfig(config.unet, config.vae, tower)))
    return root


def episodes() -> dict[str, np.ndarray]:
    images, masks = cases.prompts(1, batch=2, size=SIZE)
    return {
        "query_image": cases.random_images("ablations", 2, size=SIZE),
        "query_mask": cases.random_masks("ablations", 2, SIZE),
        "prompt_images": images,
        "prompt_masks": masks,
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_takes_two_steps(path, folders):
    config = load(path)
    found = re.search(r"--config\.init\.folder=pretrained/(\w+)", path.read_text())
    assert found is not None
    config.init.folder, config.task.image_size = str(folders / found[1]), SIZE
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
        step = step.lower(state, metrics, frozen, batch).compile(compiler_options=cases.FAST_COMPILE)
        for _ in range(2):
            state, metrics = step(state, metrics, frozen, batch)
        assert int(state.step) == 2 and np.isfinite(metrics.compute()["loss"])
    assert before.keys() == state.params.keys()
    still = [name for name, value in state.params.items() if (np.asarray(value) == before[name]).all()]
    assert not still  # what is trained moves, A of LoRA from the second step on; nothing else is in the state
