"""What the tasks do with random keys and options, around networks small enough to follow by hand."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.tasks import LDIS1, LDISN, PromptInputs, task_from_dict

BATCH, SIZE = 3, 8
KEYS = jax.random.split(jax.random.key(3), BATCH)
QUERY = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype(np.float32))
PROMPTS = PromptInputs(
    jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (BATCH, 2, SIZE, SIZE, 3)).astype(np.float32)),
    jnp.ones((BATCH, 2, SIZE, SIZE), int),
)


class GlassVAE:
    """Encodes by taking every eighth pixel (4 channels: rgb and 1), with a std of 0.5; decodes by repeating it."""

    scaling_factor = 0.5

    def encode(self, image: Any) -> tuple[Any, Any]:
        mean = jnp.pad(image[:, ::8, ::8], ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1)
        return mean, jnp.full(mean.shape, 0.5)

    def decode(self, latents: Any) -> Any:
        return jnp.repeat(jnp.repeat(latents[..., :3], 8, axis=1), 8, axis=2)


class GlassTower:
    """One token a prompt: its mean colour."""

    config = types.SimpleNamespace(image_size=8, grid=1, num_tokens=1)

    def __call__(self, image: Any, alpha: Any) -> Any:
        return image.mean((1, 2))[:, None]


class GlassUNet:
    """A mix of everything that goes in."""

    def __call__(self, sample: Any, timesteps: Any, tokens: Any, bias: Any) -> Any:
        return self.evaluate(sample, timesteps, self.instruct(tokens, bias))

    def instruct(self, tokens: Any, bias: Any, branches: int = 1) -> Any:
        return branches, (tokens.mean(-1) * jnp.exp(bias)).mean(-1)

    def evaluate(self, sample: Any, timesteps: Any, *instructions: Any) -> Any:
        columns = [prompt for branches, prompt in instructions for _ in range(branches)]
        prompt = jnp.stack(columns, axis=1).reshape(-1)[:, None, None, None]
        time = 0.001 * timesteps[:, None, None, None].astype(float)
        return sample[..., :4] * 0.5 + sample[..., -4:] * (0.3 + prompt) + time


glass_unet = GlassUNet()
MODEL: Any = types.SimpleNamespace(vae=GlassVAE(), prompt_encoder=GlassTower(), unet=glass_unet)
TRAINING = {
    "query_image": QUERY,
    "query_mask": jnp.ones((BATCH, SIZE, SIZE), int),
    "prompt_images": PROMPTS.images,
    "prompt_masks": PROMPTS.masks,
}


def test_ldisn_draws_from_each_querys_own_key():
    task = LDISN(image_size=SIZE)
    drawn = task.predict(MODEL, QUERY, PROMPTS, KEYS, num_steps=3)

    def draw(count: int) -> jax.Array:
        return jnp.stack([jax.random.normal(jax.random.fold_in(key, count), (1, 1, 4)) for key in KEYS])

    given = task.predict(
        MODEL, QUERY, PROMPTS, KEYS, num_steps=3, noise=draw(0), step_noise=jnp.stack([draw(i + 1) for i in range(3)])
    )
    np.testing.assert_allclose(drawn, given, atol=1e-5)


@pytest.mark.parametrize(
    "task", [LDIS1(image_size=SIZE), LDIS1(image_size=SIZE, query_latents="sample"), LDISN(image_size=SIZE)]
)
def test_predict_does_not_depend_on_neighbours_in_the_batch(task):
    together = task.predict(MODEL, QUERY, PROMPTS, KEYS)
    alone = task.predict(MODEL, QUERY[1:2], PromptInputs(PROMPTS.images[1:2], PROMPTS.masks[1:2]), KEYS[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_ldisn_options_override_the_tasks_defaults():
    options: dict[str, Any] = {
        "num_steps": 4,
        "sampler": "ddim",
        "image_guidance_scale": 2.0,
        "prompt_guidance_scale": 3.0,
    }
    given = LDISN(image_size=SIZE).predict(MODEL, QUERY, PROMPTS, KEYS, **options)
    default = LDISN(image_size=SIZE, **options).predict(MODEL, QUERY, PROMPTS, KEYS)
    np.testing.assert_array_equal(given, default)
    changes: dict[str, Any] = {"num_steps": 5, "image_guidance_scale": 1.0, "prompt_guidance_scale": 1.0}
    for name, value in changes.items():
        other = LDISN(image_size=SIZE).predict(MODEL, QUERY, PROMPTS, KEYS, **options | {name: value})
        assert np.abs(other - given).max() > 1e-3, name


def test_ldisn_can_guide_only_a_part_of_the_steps():
    """Unguided steps evaluate the prompted branch alone, which is guidance by (1, 1)."""
    task = LDISN(image_size=SIZE, num_steps=4, sampler="dpmpp_2m", timestep_spacing="trailing")
    unguided = task.predict(MODEL, QUERY, PROMPTS, KEYS, guidance_start=0.5, guidance_end=0.5)
    ones = task.predict(MODEL, QUERY, PROMPTS, KEYS, image_guidance_scale=1.0, prompt_guidance_scale=1.0)
    np.testing.assert_allclose(unguided, ones, atol=1e-5)
    guided = task.predict(MODEL, QUERY, PROMPTS, KEYS)
    part = task.predict(MODEL, QUERY, PROMPTS, KEYS, guidance_end=0.5)
    assert np.abs(part - guided).max() > 1e-3 and np.abs(part - unguided).max() > 1e-3
    leading = task.predict(MODEL, QUERY, PROMPTS, KEYS, timestep_spacing="leading")
    assert np.abs(leading - guided).max() > 1e-3


def test_ldis1_samples_the_query_only_when_asked():
    mode, sample = LDIS1(image_size=SIZE), LDIS1(image_size=SIZE, query_latents="sample")
    shift = 0.5 * jnp.stack([jax.random.normal(key, (1, 1, 4)) for key in KEYS])
    prompt = PROMPTS.images.mean((2, 3)).mean((1, 2))[:, None, None, None]
    change = sample.predict(MODEL, QUERY, PROMPTS, KEYS) - mode.predict(MODEL, QUERY, PROMPTS, KEYS)
    np.testing.assert_allclose(change, MODEL.vae.decode(shift * (0.8 + prompt)), atol=1e-5)


def test_ldis1_loss_with_a_sampled_query():
    task = LDIS1(image_size=SIZE, query_latents="sample", timestep=7)
    key = jax.random.key(5)
    target_key, query_key = jax.random.split(key)
    shape = (BATCH, 1, 1, 4)
    target = jnp.array([-1.0, 1.0, 0.0, 1.0])[None, None, None] + 0.5 * jax.random.normal(target_key, shape)
    query = MODEL.vae.encode(QUERY)[0] + 0.5 * jax.random.normal(query_key, shape)
    prompt = PROMPTS.images.mean((2, 3)).mean((1, 2))[:, None, None, None]
    painted = 0.5 * query * (0.8 + prompt) + 0.007
    np.testing.assert_allclose(task.loss(MODEL, TRAINING, key), jnp.mean((painted - 0.5 * target) ** 2), rtol=1e-5)


def test_ldisn_loss_regresses_v_where_the_schedule_says_so():
    epsilon = LDISN(image_size=SIZE, conditioning_dropout=0.0)
    v = dataclasses.replace(epsilon, schedule=NoiseSchedule(prediction_type="v_prediction"))
    key, seen = jax.random.key(1), []

    def unet(*inputs: Any) -> Any:
        seen.append(inputs)
        return glass_unet(*inputs)

    spy: Any = types.SimpleNamespace(vae=MODEL.vae, prompt_encoder=MODEL.prompt_encoder, unet=unet)
    loss_v, loss_epsilon = v.loss(spy, TRAINING, key), epsilon.loss(spy, TRAINING, key)
    _, time_key, noise_key, _ = jax.random.split(key, 4)
    t = jax.random.randint(time_key, (BATCH,), 0, 1000)
    noise = jax.random.normal(noise_key, (BATCH, 1, 1, 4))
    signal, sigma = (c[:, None, None, None] for c in v.schedule.coefficients(t))
    noisy, painted = seen[0][0][..., :4], glass_unet(*seen[0])
    target = (noisy - sigma * noise) / signal
    np.testing.assert_allclose(loss_epsilon, jnp.mean((painted - noise) ** 2), rtol=1e-5)
    np.testing.assert_allclose(loss_v, jnp.mean((painted - (signal * noise - sigma * target)) ** 2), rtol=1e-4)


@pytest.mark.parametrize("task", [LDIS1(timestep=3, mask_alpha=0.1), LDISN(num_steps=5, sampler="ddim")])
def test_task_from_dict_restores_a_task_from_its_own_file(task):
    assert task_from_dict(task.to_dict()) == task


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"task": "ldis2"}, "ldis2"),
        ({}, "task=None"),
        ({"task": "ldis1", "num_steps": 20}, "num_steps"),
        ({"task": "ldis1", "query_latents": "mean"}, "mean"),
        ({"task": "ldisn", "sampler": "euler"}, "euler"),
    ],
)
def test_task_from_dict_rejects_wrong_files(values, named):
    with pytest.raises(LDISError, match=named):
        task_from_dict(values)


def test_ldis1_takes_no_options():
    with pytest.raises(TypeError, match="num_steps"):
        LDIS1(image_size=SIZE).predict(MODEL, QUERY, PROMPTS, KEYS, num_steps=3)
