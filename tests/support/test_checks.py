"""Values from files: types and ranges, in every config of a model folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ldis_jax.errors import LDISError
from ldis_jax.weights import load_model

UNET, VAE, TOWER = "unet/config.json", "vae/config.json", "prompt_encoder/config.json"
SCHEDULER, TASK = "scheduler/scheduler_config.json", "ldis_config.json"

WRONG = [
    *((UNET, "norm_num_groups", value) for value in (0, -4, "4", None, 4.0, True, 2**40)),
    *((UNET, "block_out_channels", value) for value in ([], [8.0, 16.0], [-8, -16], "8", [8] * 100, None, 8)),
    *((UNET, "layers_per_block", value) for value in (1.5, "1", 10**8, 0)),
    *((UNET, "cross_attention_dim", value) for value in ("a", None, -8, [8, 8], 10**11)),
    *((UNET, "attention_head_dim", value) for value in (0, -2, [2, "2"])),
    *((UNET, "norm_eps", value) for value in ("x", -1.0, 0, float("nan"), float("inf"))),
    *((VAE, "scaling_factor", value) for value in ("x", None, 0, -1.0, float("nan"))),
    *((VAE, "_class_name", value) for value in ([], None, 5, "VQModel")),
    *((TOWER, "layers", value) for value in (1.0, "1", None, 10**8)),
    *((TOWER, "heads", value) for value in (0, -1)),
    *((TOWER, "patch_size", value) for value in (0, "8")),
    (TOWER, "alpha", "no"),
    *((SCHEDULER, "beta_start", value) for value in ("a", -1.0, 0.0, float("nan"), 0.5)),
    *((SCHEDULER, "beta_end", value) for value in (2.0, None)),
    *((SCHEDULER, "num_train_timesteps", value) for value in ("a", 0, 10**9)),
    *((SCHEDULER, "steps_offset", value) for value in ("a", -10)),
    *((TASK, "task", value) for value in ([], None, "ldis2")),
    *((TASK, "image_size", value) for value in ("16", None, [16], -16, 16.0, 0)),
    *((TASK, "mask_alpha", value) for value in ("x", None, float("nan"), 1.0, -0.1)),
    *((TASK, "num_steps", value) for value in ("3", 2.5, None, 0)),
    *((TASK, "image_guidance_scale", value) for value in ("x", float("nan"))),
    *((TASK, "conditioning_dropout", value) for value in ("x", 0.5)),
    (TASK, "schedule", {}),
]


@pytest.mark.parametrize(("file", "key", "value"), WRONG, ids=lambda value: str(value)[:20])
def test_load_model_rejects_wrong_values_in_one_line_that_names_the_file(
    tmp_path, micro_folder_ldisn, file, key, value
):
    folder = Path(shutil.copytree(micro_folder_ldisn, tmp_path / "model"))
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(values | {key: value}))
    with pytest.raises(LDISError) as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["beta_start", "beta_end", "beta_schedule"])
def test_load_model_requires_the_betas_in_a_scheduler_file(tmp_path, micro_folder_ldisn, key):
    """Diffusers' defaults, which a silent file means there, are not Stable Diffusion's."""
    folder = Path(shutil.copytree(micro_folder_ldisn, tmp_path / "model"))
    values = json.loads((folder / SCHEDULER).read_text())
    del values[key]
    (folder / SCHEDULER).write_text(json.dumps(values))
    with pytest.raises(LDISError, match=f"no {key}"):
        load_model(folder)
