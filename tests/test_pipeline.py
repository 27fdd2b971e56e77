import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldis_jax import LDISError, LDISPipeline
from tests.helpers import SIZE


def arrays(count, batch=1):
    rng = np.random.default_rng(3)
    query = rng.uniform(-1, 1, (batch, SIZE, SIZE, 3)).astype(np.float32)
    images = rng.uniform(-1, 1, (batch, count, SIZE, SIZE, 3)).astype(np.float32)
    masks = rng.integers(0, 2, (batch, count, SIZE, SIZE)).astype(np.uint8)
    return query, images, masks


def test_pipeline_result_has_the_query_size_and_agrees_with_itself(pipe, pictures):
    out = pipe(pictures["query"], [(pictures["prompt"], pictures["mask"])])
    assert out.mask.shape == out.probability.shape == (24, 50)
    assert (out.mask.dtype, out.probability.dtype, out.pseudo_mask.dtype) == (np.bool_, np.float32, np.uint8)
    assert out.pseudo_mask.shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(out.mask, out.probability > 0.5)
    assert out.overlay(pictures["query"]).shape == (24, 50, 3)
    clone = pickle.loads(pickle.dumps(out))
    np.testing.assert_array_equal(clone.mask, out.mask)


def test_pipeline_takes_paths_pil_images_and_arrays_as_the_same_input(pipe, pictures):
    def pil(name):
        return Image.open(pictures[name])

    def array(name):
        return np.asarray(Image.open(pictures[name]))

    results = [pipe(make("query"), [(make("prompt"), make("mask"))]).probability for make in (pictures.get, pil, array)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_pipeline_result_depends_on_the_prompt(pipe, pictures):
    image, mask = np.asarray(Image.open(pictures["prompt"])), np.asarray(Image.open(pictures["mask"]))
    one = pipe(pictures["query"], [(image, mask)]).probability
    other = pipe(pictures["query"], [(image, 255 - mask)]).probability
    assert np.abs(one - other).max() > 1e-4


def test_pipeline_does_not_compile_for_a_second_call(pipe_n, pictures):
    prompts = [(pictures["prompt"], pictures["mask"])]
    pipe_n(pictures["query"], prompts * 5)
    before = pipe_n._predictor._predict._cache_size()
    pipe_n(pictures["prompt"], prompts * 6, seed=5, image_guidance_scale=1.0, prompt_guidance_scale=3.0)
    assert pipe_n._predictor._predict._cache_size() == before
    pipe_n(pictures["query"], prompts * 5, num_steps=2)
    assert pipe_n._predictor._predict._cache_size() == before + 1


@pytest.mark.parametrize("empty", [False, True])
def test_pipeline_predict_is_unchanged_by_padding_prompts(pipe, empty):
    query, images, masks = arrays(5)
    if empty:
        masks[:] = 0
    padded = pipe.predict(query, images, masks)  # a bucket of 6
    exact = pipe._predictor._predict(
        pipe._predictor.params, jnp.asarray(query), _inputs(images, masks), jax.random.split(jax.random.key(0), 1)
    )
    assert np.abs(np.asarray(exact)).max() > 0.1
    np.testing.assert_allclose(padded, exact, atol=1e-5)


def _inputs(images, masks):
    from ldis_jax.tasks import PromptInputs

    return PromptInputs(jnp.asarray(images), jnp.asarray(masks))


def test_pipeline_predict_depends_on_the_seed_and_not_on_neighbours(pipe_n):
    query, images, masks = arrays(1, batch=2)
    both = np.asarray(pipe_n.predict(query, images, masks, seed=1))
    np.testing.assert_allclose(pipe_n.predict(query[:1], images[:1], masks[:1], seed=1)[0], both[0], atol=1e-4)
    assert np.abs(np.asarray(pipe_n.predict(query, images, masks, seed=2)) - both).max() > 1e-3


def test_pipeline_predict_takes_given_noise_in_place_of_the_draws(pipe_n):
    query, images, masks = arrays(1)
    rng = np.random.default_rng(0)
    side = SIZE // 4
    noise = rng.standard_normal((1, side, side, 4)).astype(np.float32)
    steps = rng.standard_normal((3, 1, side, side, 4)).astype(np.float32)
    call = {"noise": noise, "step_noise": steps}
    first = np.asarray(pipe_n.predict(query, images, masks, seed=0, **call))
    np.testing.assert_array_equal(first, pipe_n.predict(query, images, masks, seed=9, **call))
    last = steps.copy()
    last[-1] = 0
    np.testing.assert_allclose(pipe_n.predict(query, images, masks, noise=noise, step_noise=last), first, atol=1e-5)
    last[0] = 0
    assert np.abs(np.asarray(pipe_n.predict(query, images, masks, noise=noise, step_noise=last)) - first).max() > 1e-3


def test_pipeline_segment_classes_sum_to_one_and_one_class_is_the_sigmoid(pipe, pictures):
    prompt = (pictures["prompt"], pictures["mask"])
    single = pipe(pictures["query"], [prompt])
    one = pipe.segment_classes(pictures["query"], {"thing": [prompt]})
    np.testing.assert_allclose(one.probabilities[1], single.probability, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(one), single.mask.astype(np.uint8))
    image, mask = np.asarray(Image.open(pictures["prompt"])), np.asarray(Image.open(pictures["mask"]))
    two = pipe.segment_classes(pictures["query"], {"thing": [prompt], "rest": [(image, 255 - mask), prompt]})
    np.testing.assert_allclose(two.probabilities.sum(0), 1.0, atol=1e-6)
    assert two.class_names == ("thing", "rest") and two.label_map.max() <= 2


def test_pipeline_takes_label_maps_as_prompts(pipe, pictures, tmp_path):
    query, image, mask = (np.asarray(Image.open(pictures[name])) for name in ("query", "prompt", "mask"))
    labels = np.where(mask > 0, 2, 0).astype(np.uint8)
    labels[32:38, 20:28] = 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    (tmp_path / "classes.json").write_text('{"names": ["background", "ear", "cat"]}')
    own = [(image, mask), (image, labels == 1)]
    expected = pipe(query, own).probability
    prompts = [(image, tmp_path / "labels.png"), (image, labels, 1)]
    for label in ("cat", 2):
        np.testing.assert_array_equal(pipe(query, prompts, label=label).probability, expected)
        [found] = pipe.segment_images([query], prompts, label=label)
        np.testing.assert_array_equal(found.probability, expected)
        *_, last = pipe.segment_steps(query, prompts, label=label)
        np.testing.assert_allclose(last.probability, expected, atol=1e-5)
    classes = {"cat": [(image, labels, 2)], "ear": [(image, tmp_path / "labels.png", "ear")]}
    found = pipe.segment_classes(query, classes).probabilities
    truth = pipe.segment_classes(query, {"cat": own[:1], "ear": own[1:]}).probabilities
    np.testing.assert_array_equal(found, truth)
    with pytest.raises(LDISError, match=r"prompt 2: labels 1, 2; choose one: .* label=1 in Python"):
        pipe(query, [(image, mask), (image, labels)])
    with pytest.raises(LDISError, match="prompt 1 of 'ear': no label 3 in it; it has 1, 2"):
        pipe.segment_classes(query, {"cat": own[:1], "ear": [(image, labels, 3)]})


def test_pipeline_segment_video_keeps_label_values_and_the_first_frame(pipe):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (20, 24, 3), np.uint8) for _ in range(3)]
    labels = np.zeros((20, 24), np.uint8)
    labels[2:10, 2:10], labels[12:18, 12:20], labels[0, 0] = 7, 40, 255
    maps = list(pipe.segment_video(iter(frames), labels))
    assert len(maps) == 3
    np.testing.assert_array_equal(maps[0], labels)
    assert set(np.unique(maps[1:])) <= {0, 7, 40}
    prompts = {str(v): [(frames[0], (labels == v).astype(np.uint8))] for v in (7, 40)}
    expected = np.array([0, 7, 40], np.uint8)[pipe.segment_classes(frames[2], prompts).label_map]
    np.testing.assert_array_equal(maps[2], expected)


def test_instruction_tokens(pipe):
    _, images, masks = arrays(3, batch=2)
    tokens, mask = pipe.instruction_tokens(images, masks)
    assert tokens.shape == (2, 3 * 4, 16) and mask.shape == (2, 12)
    assert set(np.unique(mask)) == {0.0, 1.0}


def test_pipeline_in_bfloat16_halves_the_parameters_and_stays_close(pipe, micro_folder):
    half = LDISPipeline.from_pretrained(micro_folder, dtype="bfloat16")
    sizes = [sum(x.nbytes for x in jax.tree.leaves(p._predictor.params)) for p in (pipe, half)]
    assert sizes[1] * 2 == sizes[0]
    query, images, masks = arrays(1)
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms mix their float32 statistics with bfloat16
        exact, rough = (np.asarray(p.predict(query, images, masks)) for p in (pipe, half))
    assert rough.dtype == np.float32
    assert np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()


def test_save_pretrained_round_trip(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "copy")
    query, images, masks = arrays(1)
    copy = LDISPipeline.from_pretrained(tmp_path / "copy")
    np.testing.assert_array_equal(copy.predict(query, images, masks), pipe.predict(query, images, masks))
    assert "ldis1" in repr(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"prompts": []}, "at least one"),
        (lambda p: {"prompts": [(p["prompt"], p["query"])]}, "colours beside black"),
        (lambda p: {"prompts": [(p["prompt"], np.eye(5, dtype=np.uint8))]}, "mask is 5x5, its image is 30x40"),
        (lambda p: {"prompts": [(p["prompt"], np.zeros((40, 30), np.uint8))]}, "no object"),
        (lambda p: {"prompts": [(p["prompt"],)]}, "pair"),
        (lambda p: {"query": p["query"].with_name("none.png")}, "no such file"),
        (lambda p: {"num_steps": 3}, "unknown option num_steps of ldis1"),
        (lambda p: {"steps": 3}, "unknown option steps of ldis1; ldis1 takes none, ldisn guidance_end"),
        (lambda p: {"seed": "a"}, "seed='a': must be an integer"),
        (lambda p: {"seed": 1 << 40}, "must be an integer from 0"),
        (
            lambda p: {
                "prompts": [
                    (np.zeros((400, 400, 3), np.uint8), np.eye(1, 160_000, 402, dtype=np.uint8).reshape(400, 400))
                ]
            },
            "vanishes",
        ),
    ],
)
def test_pipeline_rejects_bad_input_in_one_clear_line(pipe, pictures, change, message):
    arguments = {"query": pictures["query"], "prompts": [(pictures["prompt"], pictures["mask"])]} | change(pictures)
    with pytest.raises(LDISError, match=message) as caught:
        pipe(**arguments)
    assert "\n" not in str(caught.value)


def test_pipeline_rejects_bad_options_of_ldisn(pipe_n, pictures):
    prompts = [(pictures["prompt"], pictures["mask"])]
    for options, message in (
        ({"sampler": "euler"}, "sampler"),
        ({"num_steps": 0}, "num_steps"),
        ({"guidance": 3}, "unknown option guidance"),
        ({"image_guidance_scale": "a"}, "image_guidance_scale='a': must be a finite number"),
        ({"prompt_guidance_scale": float("nan")}, "prompt_guidance_scale=nan: must be a finite number"),
        ({"prompt_guidance_scale": np.ones(2)}, "must be a finite number"),
    ):
        with pytest.raises(LDISError, match=message):
            pipe_n(pictures["query"], prompts, **options)
    query, images, masks = arrays(1)
    with pytest.raises(LDISError, match="noise"):
        pipe_n.predict(query, images, masks, noise=np.zeros((1, 2, 2, 4)))
    with pytest.raises(LDISError, match="query"):
        pipe_n.predict(query[:, :8], images, masks)
    with pytest.raises(LDISError, match="prompt_masks"):
        pipe_n.predict(query, images, masks[:, :, :8])


def test_pipeline_names_what_is_no_array_of_numbers(pipe, pictures):
    query, images, masks = arrays(1)
    size = pipe.task.image_size
    for name, shape, call in (
        ("query", f"[1, {size}, {size}, 3]", lambda: pipe.predict(pictures["query"], images, masks)),
        ("prompt_images", f"[1, 1, {size}, {size}, 3]", lambda: pipe.predict(query, pictures["prompt"], masks)),
        ("prompt_masks", f"[B, K, {size}, {size}]", lambda: pipe.instruction_tokens(images, [pictures["mask"]])),
        ("num_prompts", "[1]", lambda: pipe.predict(query, images, masks, num_prompts="all")),
    ):
        with pytest.raises(LDISError, match=rf"{name} \w+: expected numbers {re.escape(shape)}"):
            call()


@pytest.mark.parametrize(
    ("count", "named"),
    [(0, 0), (-1, -1), ([1, 0], 0), ("a", "a"), (["a"], "a"), (1.5, 1.5), (None, None)],
    ids=repr,
)
def test_pipeline_compile_rejects_what_is_no_number(pipe, count, named):
    for name in ("num_prompts", "num_classes"):
        with pytest.raises(LDISError, match=re.escape(f"{name}={named!r}: must be an integer of at least 1")):
            pipe.compile(**{name: count})


def test_pipeline_segment_video_rejects_a_video_without_frames(pipe):
    with pytest.raises(LDISError, match="frames: there are none"):
        next(pipe.segment_video([], np.ones((4, 4), np.uint8)))


def test_pipeline_results_compare_as_objects_do_and_save_as_png_only(pipe, pictures, tmp_path):
    out, again = (pipe(pictures["query"], [(pictures["prompt"], pictures["mask"])]) for _ in range(2))
    assert out != again and len({out, again}) == 2
    for name in ("found.jpg", "found"):
        with pytest.raises(LDISError, match="masks are PNG files"):
            out.save(tmp_path / name)
    assert not list(tmp_path.glob("found*"))


def test_pipeline_segment_video_takes_first_frame_labels_from_anywhere(pipe, tmp_path):
    frames = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(2)]
    mask = np.zeros((20, 30), np.uint8)
    mask[4:16, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "first.png")
    expected = list(pipe.segment_video(frames, mask // 255))
    for labels in (mask, mask > 0, tmp_path / "first.png", Image.fromarray(mask)):
        np.testing.assert_array_equal(list(pipe.segment_video(frames, labels)), expected)
    for labels in (mask[None], mask / 255, np.full((20, 30), 300)):
        with pytest.raises(LDISError, match=r"first_frame_labels .*: must be integers \[H, W\], 0 to 255"):
            next(pipe.segment_video(frames, labels))


def test_pipeline_from_pretrained_rejects_an_unknown_model(tmp_path):
    with pytest.raises(LDISError, match="no such folder"):
        LDISPipeline.from_pretrained(tmp_path / "nothing" / "here")
    with pytest.raises(LDISError, match=r"ldis_config\.json"):
        LDISPipeline.from_pretrained(tmp_path)
    with pytest.raises(LDISError, match="dtype"):
        LDISPipeline.from_pretrained(tmp_path, dtype="float16")
