"""Many images, tiles, steps, devices and types: each gives what a single call gives."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from ldis_jax import LDISError, LDISPipeline
from ldis_jax.inference.tiles import Canvas, make_tiles
from ldis_jax.input_pipeline.transforms import crop_prompt
from tests.helpers import SIZE


def scene(seed, height=24, width=50):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def prompt(seed):
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 8 + seed : 25] = 255
    return scene(seed, 30, 40), mask


QUERIES = [scene(i, 20 + 3 * i, 40 - 2 * i) for i in range(5)]


@pytest.mark.parametrize("batch_size", [None, 2, 7])
def test_pipeline_segment_images_gives_what_single_calls_give(pipe_n, batch_size):
    prompts = [prompt(1), prompt(2), prompt(3)]
    many = list(pipe_n.segment_images(iter(QUERIES), prompts, seed=3, batch_size=batch_size))
    for query, found in zip(QUERIES, many, strict=True):
        alone = pipe_n(query, prompts, seed=3)
        np.testing.assert_allclose(found.probability, alone.probability, atol=1e-5)
        assert found.pseudo_mask.shape == alone.pseudo_mask.shape == (SIZE, SIZE, 3)


def test_pipeline_segment_images_takes_several_classes(pipe):
    classes = {"a": [prompt(1)], "b": [prompt(2), prompt(3)]}
    many = list(pipe.segment_images(QUERIES, classes, batch_size=3))
    for query, found in zip(QUERIES, many, strict=True):
        alone = pipe.segment_classes(query, classes)
        assert found.class_names == ("a", "b")
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-5)


def test_pipeline_segment_images_holds_few_images(pipe):
    given = []

    def queries():
        for i in range(6):
            given.append(i)
            yield QUERIES[0]

    results = pipe.segment_images(queries(), [prompt(1)], batch_size=1)
    next(results)
    assert len(given) <= 3
    assert len(list(results)) == 5


def test_pipeline_call_is_predict_between_fitting_and_restoring(pipe):
    from ldis_jax.input_pipeline.transforms import eval_image, eval_mask, restore_size

    image, mask = prompt(1)
    fitted = eval_image(image, SIZE)[None, None], eval_mask((mask > 0).astype(np.uint8), SIZE)[None, None]
    r = np.asarray(pipe.predict(eval_image(QUERIES[1], SIZE)[None], *fitted))[0]
    logits = np.diff(restore_size(r, *QUERIES[1].shape[:2])[..., :2])[..., 0]
    found = pipe(QUERIES[1], [(image, mask)])
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_pipeline_segment_steps_ends_in_what_a_call_gives(pipe, pipe_n):
    for p in (pipe, pipe_n):
        steps = list(p.segment_steps(QUERIES[0], [prompt(1)], seed=4))
        assert len(steps) == (1 if p is pipe else 3)
        np.testing.assert_allclose(steps[-1].probability, p(QUERIES[0], [prompt(1)], seed=4).probability, atol=1e-5)
    assert np.abs(steps[0].probability - steps[1].probability).max() > 1e-3
    options = {"sampler": "dpmpp_2m", "num_steps": 4, "guidance_end": 0.5, "timestep_spacing": "trailing"}
    *_, last = pipe_n.segment_steps(QUERIES[0], [prompt(1)], **options)
    np.testing.assert_allclose(last.probability, pipe_n(QUERIES[0], [prompt(1)], **options).probability, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"noise": True}])
def test_pipeline_on_several_devices_shares_a_batch(pipe_n, options):
    spread = pipe_n.to(devices=4)
    assert "4 devices" in repr(spread)
    rng = np.random.default_rng(0)
    query = rng.uniform(-1, 1, (6, SIZE, SIZE, 3)).astype(np.float32)
    images = rng.uniform(-1, 1, (6, 1, SIZE, SIZE, 3)).astype(np.float32)
    masks = rng.integers(0, 2, (6, 1, SIZE, SIZE)).astype(np.uint8)
    if options:
        options = {"noise": rng.standard_normal((6, SIZE // 4, SIZE // 4, 4))}
        options["step_noise"] = rng.standard_normal((3, 6, SIZE // 4, SIZE // 4, 4))
    expected = pipe_n.predict(query, images, masks, **options)
    np.testing.assert_allclose(spread.predict(query, images, masks, **options), expected, atol=1e-5)
    many = list(spread.segment_images(QUERIES, [prompt(1)]))
    assert len(many) == 5
    np.testing.assert_allclose(many[4].probability, pipe_n(QUERIES[4], [prompt(1)]).probability, atol=1e-5)


def test_pipeline_to_another_type_stays_close(pipe):
    half = pipe.to("bfloat16")
    assert "bfloat16" in repr(half) and "float32" in repr(pipe)
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms mix their float32 statistics with bfloat16
        found = half(QUERIES[0], [prompt(1)]).probability
    assert 0 < np.abs(found - pipe(QUERIES[0], [prompt(1)]).probability).max() < 0.1


_COUNTS = {"num_prompts": (1, 5), "num_classes": np.int64(1)}


@pytest.mark.parametrize("how", ["later", "while reading", "of bfloat16", "for two devices"])
@jax.numpy_dtype_promotion("standard")  # Flax's norms mix their float32 statistics with bfloat16
def test_pipeline_does_not_compile_again_what_was_compiled_in_advance(micro_folder, caplog, how):
    if how in ("later", "for two devices"):
        pipe = LDISPipeline.from_pretrained(micro_folder).to(devices=1 + (how == "for two devices"))
        pipe.compile(**_COUNTS)
    else:
        dtype = "bfloat16" if how == "of bfloat16" else "float32"
        pipe = LDISPipeline.from_pretrained(micro_folder, dtype, compile_for=_COUNTS)

    def compiled(shots: int) -> set[str]:
        caplog.clear()
        with jax.log_compiles():
            pipe(QUERIES[0], [prompt(1)] * shots, seed=shots)
        return {name for name in ("_read_fn", "_predict_fn") if f"Compiling jit({name})" in caplog.text}

    assert [compiled(1), compiled(6), compiled(7)] == [set(), set(), {"_read_fn", "_predict_fn"}]


def test_pipeline_from_pretrained_checks_compile_for_first(micro_folder):
    with pytest.raises(LDISError, match="num_prompts=0"):
        LDISPipeline.from_pretrained(micro_folder, compile_for={"num_prompts": 0})
    with pytest.raises(LDISError, match="unknown option num_steps"):
        LDISPipeline.from_pretrained(micro_folder, compile_for={"num_steps": 3})


@pytest.mark.parametrize(("height", "width", "size"), [(100, 260, 64), (64, 64, 64), (30, 200, 64), (65, 64, 64)])
def test_make_tiles_covers_an_image_with_overlap(height, width, size):
    tiles = make_tiles(height, width, size)
    seen = np.zeros((height, width, 1), int)
    for tile in tiles:
        assert tile.cut(seen).shape == (min(size, height), min(size, width), 1)
        tile.cut(seen)[:] += 1
    assert seen.min() == 1
    lefts = sorted({tile.left for tile in tiles})
    assert all(b - a <= size - size // 4 for a, b in itertools.pairwise(lefts))
    assert len(tiles) == 1 or seen.max() > 1


def test_canvas_puts_tiles_together_at_their_places(pipe):
    """Where every tile says the truth about its place, so does the whole."""
    truth = np.random.default_rng(0).normal(size=(90, 150, 3)).astype(np.float32)
    canvas = Canvas(np.zeros((90, 150, 3), np.uint8), 2, pipe.task, 40)
    for tile in canvas.tiles:
        canvas.add(tile, 0, tile.cut(truth))
        canvas.add(tile, 1, -tile.cut(truth))
    assert not canvas.missing
    logit = truth[..., 1] - truth[..., 0]
    np.testing.assert_allclose(canvas.logits, [logit, -logit], atol=1e-5)


def test_pipeline_call_with_tile_size_segments_in_tiles(pipe):
    query = scene(9, 40, 70)
    found = pipe(query, [prompt(1)], tile_size=32)
    assert found.probability.shape == (40, 70) and found.pseudo_mask.shape == (40, 70, 3)
    corner = pipe(query[:32, :32], [prompt(1)])  # the first tile alone says what is in its corner
    np.testing.assert_allclose(found.probability[:5, :5], corner.probability[:5, :5], atol=1e-5)
    assert pipe.segment_classes(query, {"a": [prompt(1)], "b": [prompt(2)]}, tile_size=32).label_map.shape == (40, 70)


def test_pipeline_with_a_task_of_tiles_cuts_queries_and_crops_prompts(pipe):
    tiled = LDISPipeline(dataclasses.replace(pipe.task, tile=0.5), pipe.model)
    query = scene(9, 40, 70)
    found = tiled(query, [prompt(1)])
    image, mask = crop_prompt(prompt(1)[0], (prompt(1)[1] > 0).astype(np.uint8), 0.5)
    np.testing.assert_array_equal(found.probability, pipe(query, [(image, 255 * mask)], tile_size=35).probability)
    (many,) = tiled.segment_images([query], [prompt(1)], batch_size=3)
    np.testing.assert_allclose(many.probability, found.probability, atol=1e-5)
    whole = tiled(query, [prompt(1)], tile_size=70)
    assert whole.pseudo_mask.shape == (SIZE, SIZE, 3)
    (last,) = tiled.segment_steps(query, [prompt(1)])  # which shows whole images
    np.testing.assert_allclose(last.probability, pipe(query, [prompt(1)]).probability, atol=1e-5)


def test_pipeline_rejects_bad_arguments(pipe):
    for arguments, message in [
        ({"tile_size": 4}, "tile_size=4: must be an integer of at least 16 pixels of the query"),
        ({"tile_size": "a"}, "tile_size='a': must be an integer"),
        ({"batch_size": -1}, "batch_size=-1: must be an integer of at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5: must be an integer"),
    ]:
        with pytest.raises(LDISError, match=message):
            list(pipe.segment_images(QUERIES, [prompt(1)], **arguments))
    with pytest.raises(LDISError, match="devices=99"):
        pipe.to(devices=99)
    with pytest.raises(LDISError, match="dtype='float16'"):
        pipe.to("float16")
