"""The paper's variants as switches of a task: what files say, what is refused, what random keys decide."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.tasks import LDIS1, LDISN, task_from_dict
from ldis_jax.tasks.pseudo_mask import to_logit
from ldis_jax.weights import load_model, load_training_init, save_model
from tests.helpers import MICRO, SIZE
from tests.parity import test_tasks as glass
from tests.reference import cases
from tests.reference.weights import random_model

VARIANT_KEYS = {"target", "mask_noise", "masking", "loss_space", "noised", "balance", "tile", "object_bias"}


@pytest.mark.parametrize("name", cases.VARIANTS)
def test_task_from_dict_restores_every_variant(name):
    task = cases.VARIANTS[name]
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task


@pytest.mark.parametrize("task", [LDIS1(mask_alpha=0.1), LDISN(num_steps=5)])
def test_task_from_dict_reads_a_file_from_before_the_variants(task):
    old = {key: value for key, value in task.to_dict().items() if key not in VARIANT_KEYS}
    assert task_from_dict(old) == task


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": "vanilla"}, "target='vanilla'; must be one of"),
        ({"masking": "early"}, "masking='early'; must be one of"),
        ({"loss_space": "image"}, "loss_space='image'; must be one of"),
        ({"noised": 1}, "noised=1 is not a usable bool"),
        ({"target": "perturbed"}, "target='perturbed', .*mask_noise=0.0: .*mask_noise positive"),
        ({"target": "perturbed", "mask_noise": -1.0}, "mask_noise=-1.0"),
        ({"target": "perturbed", "mask_noise": 0.1, "mask_alpha": 0.4}, "mask_alpha=0.4, .* no image is mixed in"),
        ({"mask_noise": 0.1}, "mask_noise=0.1"),
        ({"target": "added"}, "target='added', mask_alpha=0.0, .*mask_alpha at least 1"),
        ({"mask_alpha": 1.5}, "target='augmented', mask_alpha=1.5, .*mask_alpha from 0 on and below 1"),
        ({"balance": 1.5}, "balance=1.5: must be from 0 to 1"),
        ({"tile": 0.0}, "tile=0.0: must be from 0.02 to 1, a share of the image's long side"),
        ({"tile": 1.5}, "tile=1.5: must be from 0.02 to 1"),
        ({"balance": 0.5, "loss_space": "pixel"}, "balance=0.5: .* 0 with loss_space 'pixel'"),
        ({"noised": True, "timestep": 1000}, "timestep=1000: must be less than the noise schedule's 1000"),
    ],
)
def test_task_from_dict_rejects_impossible_variants_in_one_clear_line(values, message):
    with pytest.raises(LDISError, match=message) as error:
        task_from_dict({"task": "ldis1", **values}, "file")
    assert str(error.value).startswith("file: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{}, {"mask_alpha": 0.3}, {"target": "added", "mask_alpha": 2.0}])
def test_ldis1_object_bias_moves_the_mask_and_not_what_was_rendered(changes):
    rng = np.random.default_rng(0)
    rendered, query = (rng.uniform(-1, 1, (5, 7, 3)).astype(np.float32) for _ in range(2))
    plain, biased = LDIS1(**changes), LDIS1(**changes, object_bias=0.5)
    r = biased.residual(rendered, query)
    assert r.dtype == np.float32
    np.testing.assert_allclose(to_logit(r), to_logit(plain.residual(rendered, query)) + 0.5, atol=1e-6)
    np.testing.assert_allclose(r[..., 2], plain.residual(rendered, query)[..., 2])
    for task in (plain, biased):
        np.testing.assert_allclose(task.rendered(task.residual(rendered, query), query), rendered, atol=1e-6)


def test_ldis1_balance_weighs_places_by_how_small_the_object_is():
    """At balance 0.5 a place of an object of a fifth of the image counts twice as much as one beside it."""
    mask = np.zeros((2, 40, 40), np.uint8)
    mask[0, :8] = 1
    mask[1, :4, :20] = 255  # is background, as in the target
    weights = LDIS1(balance=0.5)._weights(jnp.asarray(mask), 10)
    np.testing.assert_allclose(weights.mean((1, 2)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(weights[0, 0] / weights[0, 5], np.sqrt(81 / 21), rtol=1e-5)
    np.testing.assert_allclose(weights[1], 1.0, rtol=1e-6)


def test_ldis1_loss_includes_the_balance(monkeypatch):
    masks = jnp.zeros(glass.QUERY.shape[:3], jnp.uint8).at[:, :1].set(1)
    batch = {"query_image": glass.QUERY, "query_mask": masks}
    batch |= {"prompt_images": glass.PROMPTS.images, "prompt_masks": glass.PROMPTS.masks}
    plain = LDIS1(image_size=glass.SIZE).loss(glass.MODEL, batch, jax.random.key(0))
    monkeypatch.setattr(LDIS1, "_weights", lambda self, mask, side: jnp.full((len(mask), side, side), 2.0))
    balanced = LDIS1(image_size=glass.SIZE, balance=0.5).loss(glass.MODEL, batch, jax.random.key(0))
    assert plain > 0
    np.testing.assert_allclose(balanced, 2.0 * plain, rtol=1e-6)


def test_ldis1_predict_draws_noise_from_each_querys_own_key():
    plain, noised = LDIS1(image_size=glass.SIZE, timestep=400), LDIS1(image_size=glass.SIZE, timestep=400, noised=True)
    together = noised.predict(glass.MODEL, glass.QUERY, glass.PROMPTS, glass.KEYS)
    alone = noised.predict(
        glass.MODEL, glass.QUERY[1:2], type(glass.PROMPTS)(*(x[1:2] for x in glass.PROMPTS[:2])), glass.KEYS[1:2]
    )
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)
    signal, sigma = NoiseSchedule().coefficients(jnp.array(400))
    noise = jnp.stack([jax.random.normal(jax.random.fold_in(key, 1), (1, 1, 4)) for key in glass.KEYS])
    prompt = glass.PROMPTS.images.mean((2, 3)).mean((1, 2))[:, None, None, None]
    latents = 0.5 * glass.MODEL.vae.encode(glass.QUERY)[0]
    change = ((signal - 1) * latents + sigma * noise) * (0.8 + prompt)
    expected = plain.predict(glass.MODEL, glass.QUERY, glass.PROMPTS, glass.KEYS) + glass.MODEL.vae.decode(change / 0.5)
    np.testing.assert_allclose(together, expected, atol=1e-5)


def test_load_model_reads_the_schedule_only_for_a_noised_ldis1(tmp_path, micro_folder):
    folder = Path(shutil.copytree(micro_folder, tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 100}))
    assert load_model(folder).task.schedule == NoiseSchedule()
    change(folder, noised=True, timestep=50)
    assert load_model(folder).task.schedule.num_train_timesteps == 100
    change(folder, timestep=100)
    with pytest.raises(LDISError, match="timestep=100"):
        load_model(folder)


def change(folder: Path, **values: object) -> None:
    path = folder / "ldis_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def plain_clip(tmp_path_factory) -> Path:
    """A model folder whose prompt encoder knows no alpha."""
    config = MICRO["ldis1"]
    tower = type(config.prompt_encoder)(**{**vars(config.prompt_encoder), "alpha": False})
    folder = tmp_path_factory.mktemp("plain") / "model"
    task = LDIS1(image_size=SIZE, masking="post")
    save_model(folder, task, random_model(ModelConfig(config.unet, config.vae, tower)))
    return folder


@pytest.mark.parametrize("masking", ["both", "pre"])
def test_load_training_init_rejects_pre_masking_with_plain_clip(plain_clip, masking):
    with pytest.raises(LDISError, match=f"masking='{masking}' needs Alpha-CLIP; plain CLIP takes 'post' or 'none'"):
        load_training_init(plain_clip, LDIS1(image_size=SIZE, masking=masking), seed=0)


def test_load_model_reads_a_plain_clip_folder_from_before_the_variants(plain_clip, tmp_path):
    folder = Path(shutil.copytree(plain_clip, tmp_path / "model"))
    path = folder / "ldis_config.json"
    values = json.loads(path.read_text())
    del values["masking"]
    path.write_text(json.dumps(values))
    assert load_model(folder).task == load_model(plain_clip).task


@pytest.mark.parametrize("remat", ["blocks", "dots"])
def test_autoencoder_kl_decode_with_remat_keeps_the_gradient_and_saves_memory(remat):
    vae, state = nnx.split(cases.model("ldis1").vae)
    z, target = cases.normal("remat", 2, 8, 8, 4), cases.random_images("remat", 2)

    def compiled(remat: str):
        def loss(z: jax.Array, state: nnx.State) -> jax.Array:
            return jnp.mean(jnp.square(nnx.merge(vae, state).decode(z, remat) - target))

        # The backward pass is a pytree: its leaves are what the forward pass keeps for it, weights left out.
        kept = jax.eval_shape(lambda z, state: jax.vjp(lambda z: loss(z, state), z)[1], z, state)
        weights = {leaf.shape for leaf in jax.tree.leaves(state)}
        kept = sum(leaf.size for leaf in jax.tree.leaves(kept) if leaf.shape not in weights)
        return jax.jit(jax.grad(loss)).lower(z, state).compile(), kept

    (whole, kept_whole), (again, kept_again) = compiled("none"), compiled(remat)
    expected = np.asarray(whole(z, state))
    assert np.abs(again(z, state) - expected).max() <= 1e-5 * np.abs(expected).max()
    if remat == "blocks":  # what the loss uses: the inputs of blocks alone are kept
        assert kept_again < 0.25 * kept_whole
        assert again.memory_analysis().temp_size_in_bytes < whole.memory_analysis().temp_size_in_bytes
