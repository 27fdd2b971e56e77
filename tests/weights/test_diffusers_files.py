"""Every model folder is a pipeline of diffusers, too, which predicts what ours predicts."""

import ast
import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from ldis_jax import LDISPipeline  # noqa: E402
from ldis_jax.weights import save_model  # noqa: E402
from ldis_jax.weights.model_folder import model_hash  # noqa: E402
from tests.helpers import MICRO, MICRO_EFFICIENT, ROOT, micro_task  # noqa: E402
from tests.reference.weights import random_model  # noqa: E402

LARGEST = 1e-3  # of R, whose values are about 1


def in_torch(folder):
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def saved(folder, name, **changes):
    task = dataclasses.replace(micro_task(name), **changes)
    save_model(folder, task, random_model(MICRO[name]))
    return task


def squares(rng, size, count):
    """(query, images, masks) for our ``predict``."""
    query, images = rng.uniform(-1, 1, (2, size, size, 3)), rng.uniform(-1, 1, (2, count, size, size, 3))
    masks = np.zeros((2, count, size, size), np.uint8)
    masks[:, :, size // 4 :, : size // 2] = 1
    masks[:, :, :2] = 255
    return query.astype(np.float32), images.astype(np.float32), masks


def nchw(x):
    return torch.from_numpy(np.moveaxis(x, -1, -3).copy())


@pytest.mark.parametrize(
    ("name", "count", "changes"),
    [
        ("ldis1", 1, {}),
        ("ldis1", 1, {"object_bias": 0.5}),
        ("ldis1", 3, {"masking": "post", "target": "added", "mask_alpha": 2.0}),
        ("ldisn", 3, {"sampler": "ddim", "num_steps": 3}),
        ("ldisn", 1, {"sampler": "dpmpp_2m", "num_steps": 3, "timestep_spacing": "trailing", "guidance_end": 0.5}),
    ],
)
def test_diffusers_files_predict_our_r(tmp_path, name, count, changes):
    task = saved(tmp_path / "model", name, **changes)
    ours, theirs = LDISPipeline.from_pretrained(tmp_path / "model"), in_torch(tmp_path / "model")
    rng = np.random.default_rng(0)
    query, images, masks = squares(rng, task.image_size, count)
    side = task.image_size // MICRO[name].vae.downscale
    noise = rng.standard_normal((2, side, side, 4)).astype(np.float32)
    given = {"noise": noise} if name == "ldisn" else {}
    r = np.asarray(ours.predict(query, images, masks, **given))
    found = theirs.predict(
        nchw(query), nchw(images), torch.from_numpy(masks == 1), **{key: nchw(x) for key, x in given.items()}
    )
    difference = np.abs(found.permute(0, 2, 3, 1).numpy() - r).max()
    assert difference < LARGEST


def test_diffusers_files_predict_our_r_where_the_encoder_describes_the_query(tmp_path):
    task = dataclasses.replace(micro_task("ldis1"), masking="pre")
    save_model(tmp_path / "model", task, random_model(MICRO_EFFICIENT))
    ours, theirs = LDISPipeline.from_pretrained(tmp_path / "model"), in_torch(tmp_path / "model")
    query, images, masks = squares(np.random.default_rng(0), task.image_size, 3)
    r = np.asarray(ours.predict(query, images, masks))
    found = theirs.predict(nchw(query), nchw(images), torch.from_numpy(masks == 1)).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - r).max() < LARGEST


@pytest.mark.parametrize("tile", [1.0, 0.6])
def test_diffusers_files_take_images_of_any_size(tmp_path, pictures, tile):
    from PIL import Image

    saved(tmp_path / "model", "ldis1", tile=tile)
    ours, theirs = LDISPipeline.from_pretrained(tmp_path / "model"), in_torch(tmp_path / "model")
    out = ours(pictures["query"], [(pictures["prompt"], pictures["mask"])])
    opened = {name: Image.open(path) for name, path in pictures.items()}
    found = theirs(opened["query"], [(opened["prompt"], opened["mask"])])
    assert found.mask.shape == out.mask.shape
    assert np.abs(found.probability - out.probability).mean() < 0.01  # two libraries resize images
    assert (found.mask == out.mask).mean() > 0.98


def test_diffusers_files_can_be_saved_again_by_diffusers(tmp_path, pictures):
    saved(tmp_path / "model", "ldis1")
    in_torch(tmp_path / "model").save_pretrained(tmp_path / "again")
    index = json.loads((tmp_path / "again" / "model_index.json").read_text())
    assert index["ldis"] == json.loads((tmp_path / "model" / "ldis_config.json").read_text())


def test_model_hash_leaves_out_the_diffusers_files(tmp_path):
    saved(tmp_path / "model", "ldis1")
    before = model_hash(tmp_path / "model")
    for name in ("model_index.json", "pipeline.py", "prompt_encoder/alpha_clip.py"):
        (tmp_path / "model" / name).write_text("raise SystemExit")
    assert model_hash(tmp_path / "model") == before
    LDISPipeline.from_pretrained(tmp_path / "model")  # reads none of them


def test_diffusers_files_of_bundled_models_are_up_to_date():
    for model, name in (
        *(("tiny", "pipeline.py"), ("tiny", "prompt_encoder/alpha_clip.py")),
        *(("small", "pipeline.py"), ("small", "prompt_encoder/efficientnet.py")),
    ):
        source = ROOT / "ldis_jax" / "weights" / "diffusers_files" / name.rpartition("/")[2]
        assert (ROOT / "ldis_jax" / "assets" / model / name).read_text() == source.read_text()
        ast.parse(source.read_text(), feature_version=(3, 9))  # torch's users have other versions of Python
