"""What is shown is what the networks compute, and looking changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldis_jax import LDISError, LDISPipeline
from ldis_jax.input_pipeline import eval_image, eval_mask
from ldis_jax.look_inside import (
    LookInside,
    TokenGrid,
    attended_sheet,
    attending_sheet,
    layers_sheet,
    steps_sheet,
    tokens_sheet,
)
from ldis_jax.media.overlays import heat_map
from ldis_jax.models import unet
from ldis_jax.tasks import PromptInputs
from tests.helpers import SIZE

GRID = 2  # of the micro prompt encoder


def picture(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def half(*shape):
    """A mask of the left half."""
    mask = np.zeros(shape, np.uint8)
    mask[:, : shape[1] // 2] = 255
    return mask


QUERY = picture(0, SIZE, SIZE, 3)
PROMPTS = [(picture(i, SIZE, SIZE, 3), half(SIZE, SIZE)) for i in (1, 2, 3)]


@pytest.fixture(scope="module")
def pipes(micro_folder, micro_folder_ldisn):
    folders = {"ldis1": micro_folder, "ldisn": micro_folder_ldisn}
    return {name: LDISPipeline.from_pretrained(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def looks(pipes):
    return {name: LookInside(pipe) for name, pipe in pipes.items()}


@pytest.fixture(scope="module")
def found(looks):
    (found,) = looks["ldis1"].cross_attention(QUERY, PROMPTS)
    return found


def fitted():
    """The query and the prompts as the network takes them."""
    images = np.stack([eval_image(image, SIZE) for image, _ in PROMPTS])[None]
    masks = np.stack([eval_mask(mask // 255, SIZE) for _, mask in PROMPTS])[None]
    return eval_image(QUERY, SIZE)[None], images, masks


def program(pipe, query, images, masks):
    """The jaxpr of a prediction."""
    prompts = PromptInputs(jnp.asarray(images), jnp.asarray(masks), jnp.full(1, len(PROMPTS)))
    keys = jax.random.split(jax.random.key(0), 1)
    return str(jax.make_jaxpr(lambda query: pipe.task.predict(pipe.model, query, prompts, keys))(query))


def inputs_of_attention(monkeypatch, pipe, query, images, masks, noise):
    """Of every cross-attention layer of the ordinary networks: its input, keys and bias of the prompted branch."""
    seen = []
    read = unet.Attention.read

    def spy(layer, x, instructions):
        count = sum(each.branches for each in instructions)
        seen.append((layer.to_q.kernel[...], layer.heads, x[::count], instructions[0].k, instructions[0].bias))
        return read(layer, x, instructions)

    monkeypatch.setattr(unet.Attention, "read", spy)
    prompts = PromptInputs(jnp.asarray(images), jnp.asarray(masks), jnp.full(1, len(PROMPTS)))

    def run():
        model, task = pipe.model, pipe.task
        if task.name == "ldis1":
            task.predict(model, query, prompts, jax.random.split(jax.random.key(0), 1))
        else:
            guided, _ = task.denoisers(model, task.conditions(model, query, prompts))
            guided(noise, jnp.int32(task.prediction_schedule.timesteps(task.num_steps)[0]))
        return [(kernel, x, k, bias) for kernel, _, x, k, bias in seen]

    arrays = jax.jit(run)()
    return [(*map(np.float64, each), heads) for each, (_, heads, *_) in zip(arrays, seen, strict=True)]


@pytest.mark.parametrize("task", ["ldis1", "ldisn"])
def test_cross_attention_gives_the_networks_own_probabilities(monkeypatch, pipes, looks, task):
    """Against attention's definition in numpy, on what the layers of an ordinary prediction are fed."""
    noise = np.random.default_rng(0).standard_normal((1, SIZE // 4, SIZE // 4, 4)).astype(np.float32)
    options = {} if task == "ldis1" else {"noise": noise}
    shown = next(looks[task].cross_attention(QUERY, PROMPTS, **options)).weights
    layers = inputs_of_attention(monkeypatch, pipes[task], *fitted(), noise)
    assert len(shown) == len(layers) == 4
    for weights, (kernel, x, k, bias, heads) in zip(shown.values(), layers, strict=True):
        queries, keys = (each[0].reshape(len(each[0]), heads, -1).swapaxes(0, 1) for each in (x @ kernel, k))
        logits = queries @ keys.swapaxes(1, 2) / np.sqrt(queries.shape[-1]) + bias[0]
        share = np.exp(logits - logits.max(-1, keepdims=True))
        share = (share / share.sum(-1, keepdims=True)).mean(0)
        side = weights.shape[0]
        assert side * side == len(share)
        np.testing.assert_allclose(weights, share.reshape(side, side, len(PROMPTS), GRID, GRID), atol=1e-5)
    assert max(w.std() for w in shown.values()) > 0.01


def test_cross_attention_weights_sum_to_one_over_tokens_that_masking_keeps(found):
    kept = np.zeros((len(PROMPTS), GRID, GRID), bool)
    kept[..., 0] = True
    np.testing.assert_array_equal(found.prompts.on_object, kept)
    assert list(found.weights) == [
        *("down_blocks.1.attentions.0", "mid_block.attentions.0"),
        *("up_blocks.0.attentions.0", "up_blocks.0.attentions.1"),
    ]
    for weights in found.weights.values():
        np.testing.assert_allclose(weights.sum((2, 3, 4)), 1, atol=1e-5)
        assert (weights[:, :, ~kept] == 0).all()


@pytest.mark.parametrize("task", ["ldis1", "ldisn"])
def test_look_inside_changes_nothing(pipes, looks, task):
    pipe, look = pipes[task], looks[task]
    query, images, masks = fitted()
    before = program(pipe, query, images, masks)
    inputs = pipe._predictor.inputs(query, images, masks, None, 0)
    plain = list(pipe._predictor.steps(inputs, {}))
    watched = [r for r, _ in look._predictor.steps(inputs, {})]
    np.testing.assert_array_equal(plain, watched)
    assert program(pipe, query, images, masks) == before


def test_cross_attention_gives_one_look_a_step_of_ldisn(pipes, looks):
    steps = list(pipes["ldisn"].segment_steps(QUERY, PROMPTS, num_steps=2, seed=3))
    seen = list(looks["ldisn"].cross_attention(QUERY, PROMPTS, num_steps=2, seed=3))
    for step, look in zip(steps, seen, strict=True):
        np.testing.assert_array_equal(step.mask, look.mask)
    first, last = (next(iter(look.weights.values())) for look in seen)
    assert np.abs(first - last).max() > 1e-4


def test_prompt_map_and_query_map_show_places_and_tokens(found):
    name, weights = next(iter(found.weights.items()))
    side, block = len(weights), SIZE // len(weights)
    np.testing.assert_allclose(found.prompt_map((0, SIZE - 1), [name]), weights[0, -1])
    np.testing.assert_allclose(found.prompt_map((0, SIZE - 1)), np.mean([w[0, -1] for w in found.weights.values()], 0))
    everywhere = np.ones((SIZE, SIZE), bool)
    np.testing.assert_allclose(found.prompt_map(everywhere, [name]), weights.mean((0, 1)), atol=1e-6)
    corner = np.zeros((SIZE, SIZE), bool)
    corner[-block:, -2 * block :] = True  # the last two cells of the last row
    np.testing.assert_allclose(found.prompt_map(corner, [name]), weights[-1, -2:].mean(0), atol=1e-6)
    token = found.best_token((0, 0))
    assert found.prompt_map((0, 0))[token] == found.prompt_map((0, 0)).max()
    seen = found.query_map(token, [name])
    assert seen.shape == (SIZE, SIZE)
    corners = [0, 0, -1, -1], [0, -1, 0, -1]
    np.testing.assert_allclose(seen[corners], weights[corners][(..., *token)])
    assert found.layers_of(side) == tuple(found.weights) and found.layers_of(side + 1) == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda found: found.prompt_map((0, SIZE)), "within"),
        (lambda found: found.prompt_map((1, 2, 3)), r"\(row, column\)"),
        (lambda found: found.prompt_map(np.zeros((SIZE, SIZE), bool)), "not empty"),
        (lambda found: found.prompt_map(np.ones((SIZE, SIZE), np.uint8)), "bool"),
        (lambda found: found.prompt_map((0, 0), ["mid"]), "unknown layer mid"),
        (lambda found: found.query_map((0, GRID, 0)), "token"),
    ],
)
def test_prompt_map_and_query_map_reject_bad_input_in_one_clear_line(found, call, message):
    with pytest.raises(LDISError, match=message) as caught:
        call(found)
    assert "\n" not in str(caught.value)


def test_look_inside_rejects_bad_prompts_and_options_as_a_call_does(looks):
    with pytest.raises(LDISError, match="no object"):
        looks["ldis1"].tokens([(QUERY, np.zeros((SIZE, SIZE), np.uint8))])
    with pytest.raises(LDISError, match="unknown option"):
        next(looks["ldis1"].cross_attention(QUERY, PROMPTS, num_steps=2))


def grid(tokens):
    on_object = np.zeros(tokens.shape[:-1], bool)
    on_object[0, 0] = True
    return TokenGrid(np.zeros((len(tokens), SIZE, SIZE, 3), np.uint8), tokens.astype(np.float32), on_object)


def test_similarity_is_the_cosine_with_the_objects_mean():
    tokens = np.array([[[[2, 0], [0, 3]], [[-1, -1], [4, 4]]]])
    half_root = np.sqrt(0.5)
    mean = np.array([1, 1.5]) / np.hypot(1, 1.5)
    expected = [[mean[0], mean[1]], [-mean.sum() * half_root, mean.sum() * half_root]]
    np.testing.assert_allclose(grid(tokens).similarity()[0], expected, atol=1e-6)
    nothing = dataclasses.replace(grid(tokens), on_object=np.zeros((1, 2, 2), bool))
    assert np.isfinite(nothing.similarity()).all()


def test_principal_components_are_in_the_order_of_their_spread():
    rng = np.random.default_rng(0)
    factors = rng.permutation(np.linspace(-1, 1, 64 * 2)).reshape(2, 8, 8)
    other = rng.uniform(-0.2, 0.2, factors.shape)
    tokens = np.stack([7 + other, 3 + factors, 0 * factors], axis=-1)
    components = grid(tokens).principal_components()
    assert components.shape == (2, 8, 8, 3) and components.min() == 0 and components.max() == 1
    np.testing.assert_allclose(components[..., 0], (factors + 1) / 2, atol=0.02)
    assert abs(np.corrcoef(components[..., 1].ravel(), other.ravel())[0, 1]) > 0.95
    assert (components[..., 2] == 0.5).all()


def test_tokens_are_those_of_the_pipeline(pipes, looks):
    shown = looks["ldis1"].tokens([(picture(5, 10, 20, 3), half(10, 20))])
    image = eval_image(picture(5, 10, 20, 3), SIZE)
    mask = eval_mask(half(10, 20) // 255, SIZE)
    tokens, kept = pipes["ldis1"].instruction_tokens(image[None, None], mask[None, None])
    np.testing.assert_array_equal(shown.tokens.reshape(tokens.shape), tokens)
    np.testing.assert_array_equal(shown.on_object.reshape(kept.shape), np.asarray(kept) > 0)
    np.testing.assert_allclose(shown.images[0] / 127.5 - 1, image, atol=0.01)


def test_sheets_of_every_kind_are_drawn_and_steps_sheet_keeps_both_ends(pipes, found):
    tall = [tokens_sheet(found.prompts), layers_sheet(found, (0, 0))]
    place, token = {"here": (0, 0)}, {"it": found.best_token((0, 0))}
    sheets = [*tall, attended_sheet(found, place), attending_sheet(found, token)]
    for sheet in sheets:
        assert sheet.dtype == np.uint8 and sheet.ndim == 3 and len(np.unique(sheet)) > 50
    assert tall[0].shape[0] > 2 * sheets[2].shape[0]  # three prompts, one place
    steps = list(pipes["ldisn"].segment_steps(picture(9, 20, 30, 3), PROMPTS))
    every, two = (steps_sheet(picture(9, 20, 30, 3), steps, most) for most in (6, 2))
    assert len(steps) == 3 and two.shape[1] < every.shape[1]
    width = (every.shape[1] - two.shape[1]) * 2
    np.testing.assert_array_equal(two[24:, : width // 2], every[24:, : width // 2])  # the first
    np.testing.assert_array_equal(two[24:-30, -width // 2 :], every[24:-30, -width // 2 :])  # and the last


def test_heat_map_gets_brighter_with_its_values():
    values = np.linspace(-3, 5, 16).reshape(1, 16)
    shown = heat_map(picture(0, 4, 32, 3) // 255, values, -3, 5)
    brightness = np.asarray(Image.fromarray(shown).convert("L"), int)[0, ::2]
    assert (np.diff(brightness) > 0).all()
    np.testing.assert_array_equal(heat_map(shown, np.ones((2, 2)), 1, 1), heat_map(shown, np.zeros((2, 2)), 0, 1))
