"""What the web page does, without the web page."""

import io
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from ldis_jax import LDISError, LDISPipeline
from ldis_jax.demo import __main__ as command
from ldis_jax.demo import videos
from ldis_jax.demo.examples import make_examples
from ldis_jax.demo.pictures import add_prompt, by_class, label_choices, segment
from ldis_jax.demo.uploads import (
    Limits,
    PaintedPrompt,
    read_labels,
    read_mask_file,
    read_mask_labels,
    read_prompt,
    read_query,
)
from ldis_jax.media.overlays import PALETTE
from tests.helpers import ROOT, call_command

LIMITS = Limits()
EMPTY = {"background": None, "layers": []}


@pytest.fixture
def painted(pictures, tmp_path):
    """The editor's value for ``pictures["prompt"]`` with two strokes: one of each of the first two colours."""
    strokes = np.zeros((40, 30, 4), np.uint8)
    strokes[10:30, 5:20] = (*PALETTE[0], 255)
    strokes[32:38, 22:28] = (*PALETTE[1], 255)
    strokes[0, 0] = (*PALETTE[2], 90)  # the soft rim of a stroke
    path = tmp_path / "layer_0.png"
    Image.fromarray(strokes).save(path)
    return {"background": str(pictures["prompt"]), "layers": [str(path)]}


def array(path):
    return np.asarray(Image.open(path))


def test_limits_take_a_megabyte_for_what_gradio_does():
    assert Limits(upload_mb=1).upload_bytes == 1024 * 1024


def test_read_prompt_takes_the_strokes_or_the_mask_file(pictures, painted):
    prompt = read_prompt(painted, None, "  ", LIMITS)
    np.testing.assert_array_equal(prompt.image, array(pictures["prompt"]))
    expected = np.zeros((40, 30), np.uint8)
    expected[10:30, 5:20] = expected[32:38, 22:28] = 1
    np.testing.assert_array_equal(prompt.mask, expected)
    assert prompt.class_name == "object"
    from_file = read_prompt(painted, str(pictures["mask"]), "cat", LIMITS)
    np.testing.assert_array_equal(from_file.mask, array(pictures["mask"]) > 0)
    assert from_file.class_name == "cat"


@pytest.fixture
def label_map(tmp_path):
    """Labels 3 and 9 of ``pictures["prompt"]``."""
    labels = np.zeros((40, 30), np.uint8)
    labels[10:30, 5:20], labels[30:, 15:] = 3, 9
    Image.fromarray(labels).save(tmp_path / "labels.png")
    return str(tmp_path / "labels.png")


def test_read_prompt_asks_for_a_choice_of_label_in_a_label_map(pictures, painted, label_map):
    labels = read_mask_labels(label_map, LIMITS)
    np.testing.assert_array_equal(labels, array(label_map))
    assert read_mask_labels(str(pictures["mask"]), LIMITS) is None
    for call in (lambda: read_mask_file(label_map, LIMITS), lambda: read_prompt(painted, label_map, "", LIMITS)):
        with pytest.raises(LDISError, match=r"^mask file: labels 3, 9; choose below it which is the object$"):
            call()
    np.testing.assert_array_equal(read_prompt(painted, label_map, "", LIMITS, 9).mask, labels == 9)
    with pytest.raises(LDISError, match="mask file: no label 4 in it; it has 3, 9"):
        read_prompt(painted, label_map, "", LIMITS, 4)


@pytest.mark.parametrize("size", [None, (40, 30), (3, 5), (1600, 1200)])
def test_label_choices_shows_labels_with_their_shares(label_map, size):
    labels = array(label_map) if size != (1600, 1200) else np.kron(array(label_map), np.ones((40, 40), np.uint8))
    shares, shown = label_choices(labels, None if size is None else np.full((*size, 3), 200, np.uint8))
    assert shares == {3: 300 / 1200, 9: 150 / 1200}
    assert shown.shape[0] >= 160 and shown.size <= 3 * 200_000 * 1.01
    background = shown[int(0.6 * len(shown)), 4]  # in no corner
    assert tuple(background) == ((200,) * 3 if size in ((40, 30), (1600, 1200)) else (0,) * 3)


def test_label_choices_offers_the_first_of_very_many_labels():
    shares, _ = label_choices(np.arange(1, 3001, dtype=np.int32).reshape(50, 60), None)
    assert list(shares) == list(range(1, 65))


def test_read_prompt_keeps_large_prompts_small_in_shape(tmp_path):
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "large.png")
    mask = np.zeros((1000, 2000), np.uint8)
    mask[:, 1000:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    editor = {"background": str(tmp_path / "large.png"), "layers": []}
    prompt = read_prompt(editor, str(tmp_path / "mask.png"), "", LIMITS)
    assert prompt.image.shape == (707, 1414, 3) and prompt.mask.shape == (707, 1414)
    assert prompt.mask[:, 707:].all() and not prompt.mask[:, :707].any()


def test_read_labels_follows_the_colours_of_the_strokes(painted):
    labels = read_labels(painted, LIMITS)
    assert (labels[10:30, 5:20] == 1).all() and (labels[32:38, 22:28] == 2).all() and labels[0, 0] == 0
    strokes = array(painted["layers"][0]).copy()
    strokes[20, 6] = (*((PALETTE[0].astype(int) + PALETTE[1]) // 2), 255)
    Image.fromarray(strokes).save(painted["layers"][0])
    assert read_labels(painted, LIMITS)[20, 6] == 255


def test_read_labels_takes_the_nearest_of_many_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 4), np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "layer.png")
    Image.new("RGB", (70, 60)).save(tmp_path / "image.png")
    distance = np.linalg.norm(pixels[..., None, :3].astype(int) - PALETTE, axis=-1)
    expected = np.where(distance.min(-1) < 40, distance.argmin(-1) + 1, 255)
    editor = {"background": str(tmp_path / "image.png"), "layers": [str(tmp_path / "layer.png")]}
    np.testing.assert_array_equal(read_labels(editor, LIMITS), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, e, t: read_query(None, LIMITS), "No query: drop a file of at most 50 MB"),
        (lambda p, e, t: read_query(t / "text.png", LIMITS), r"^query: not an image"),
        (lambda p, e, t: read_query(t / "cut.png", LIMITS), r"^query: damaged"),
        (lambda p, e, t: read_query(t / "gone.png", LIMITS), "No query: .* it is kept for an hour"),
        (lambda p, e, t: read_query(p["query"], Limits(upload_mb=0.001)), "at most 0.001 MB"),
        (lambda p, e, t: read_query(p["query"], Limits(megapixels=0.001)), "50x24 is more than the 0.001 megapixels"),
        (lambda p, e, t: read_prompt(EMPTY, None, "", LIMITS), "No prompt image: drop a file"),
        (lambda p, e, t: read_prompt({**e, "layers": []}, None, "", LIMITS), "Empty mask: paint over"),
        (lambda p, e, t: read_prompt(e, t / "black.png", "", LIMITS), "mask shows no object"),
        (lambda p, e, t: read_prompt(e, p["query"], "", LIMITS), "mask file: 1200 colours beside black"),
        (lambda p, e, t: read_prompt(e, t / "other.png", "", LIMITS), "is 3x2, its image is 30x40"),
        (lambda p, e, t: read_prompt(e, t / "text.png", "", LIMITS), "mask file: not an image"),
        (
            lambda p, e, t: read_prompt({**e, "background": t / "empty"}, None, "", LIMITS),
            "No prompt image: drop a file of at most 50 MB",
        ),
        (
            lambda p, e, t: read_labels({**e, "background": t / "empty"}, LIMITS),
            "No first frame of a video: drop a file of at most 50 MB",
        ),
        (lambda p, e, t: read_labels(EMPTY, LIMITS), "No first frame of a video: drop a file"),
        (lambda p, e, t: read_labels({**e, "layers": []}, LIMITS), "Empty mask"),
        (lambda p, e, t: read_labels({**e, "layers": e["layers"] * 9}, LIMITS), "9 layers of strokes; 8 are the most"),
        (lambda p, e, t: read_prompt({**e, "background": str(p["query"])}, None, "", LIMITS), "Empty mask"),
    ],
)
def test_uploads_answer_mistakes_in_one_clear_line(pictures, painted, tmp_path, call, message):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty").touch()  # what the page's script sends in place of too large an image
    (tmp_path / "cut.png").write_bytes(pictures["query"].read_bytes()[:300])
    Image.new("L", (30, 40)).save(tmp_path / "black.png")
    Image.fromarray(np.array([[0, 255, 0], [0, 0, 0]], np.uint8)).save(tmp_path / "other.png")
    with pytest.raises(LDISError, match=message) as caught:
        call(pictures, painted, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_segment_gives_the_pipelines_mask_of_one_class(pipe, pictures, painted, tmp_path):
    query, prompt = read_query(pictures["query"], LIMITS), read_prompt(painted, str(pictures["mask"]), "", LIMITS)
    *_, result = segment(pipe, query, [prompt], tmp_path / "out", seed=0)
    expected = pipe(pictures["query"], [(pictures["prompt"], pictures["mask"])])
    np.testing.assert_array_equal(array(result.file), 255 * expected.mask)
    np.testing.assert_array_equal(result.mask[::4, ::4, 0], 255 * expected.mask)  # 50 pixels, four times larger
    assert result.overlay.shape == result.probability.shape == (96, 200, 3)
    assert result.shares == {"object": pytest.approx(expected.mask.mean())}


def test_segment_shows_every_step_of_ldisn(micro_folder_ldisn, pictures, painted, tmp_path):
    query = read_query(pictures["query"], LIMITS)
    prompt = read_prompt(painted, None, "", LIMITS)
    pipe = LDISPipeline.from_pretrained(micro_folder_ldisn)
    results = list(segment(pipe, query, [prompt], tmp_path, seed=3, num_steps=2))
    assert [result.file is not None for result in results] == [False, False, True]
    assert (results[0].pseudo_mask != results[1].pseudo_mask).any()
    np.testing.assert_array_equal(results[1].pseudo_mask, results[2].pseudo_mask)


def test_segment_puts_prompts_together_by_class_name(pipe, tmp_path):
    rng = np.random.default_rng(0)
    image, query = rng.integers(0, 256, (2, 20, 20, 3), np.uint8)
    left = (np.arange(20) < 10).astype(np.uint8)[None].repeat(20, 0)
    prompts = []
    for mask, name in ((left, "a"), (1 - left, "b"), (left, "a")):
        prompts = add_prompt(prompts, PaintedPrompt(image, mask, name))
    [result] = segment(pipe, query, prompts, tmp_path)
    expected = pipe.segment_classes(query, {"a": [(image, left)] * 2, "b": [(image, 1 - left)]})
    np.testing.assert_array_equal(array(result.file), expected.label_map)
    assert list(result.shares) == ["a", "b"] and result.pseudo_mask is None


def test_add_prompt_bounds_prompts_and_classes():
    prompt = PaintedPrompt(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint8), "a")
    with pytest.raises(LDISError, match="16 prompts of 7 classes"):
        add_prompt([prompt] * 16, prompt)
    names = [PaintedPrompt(prompt.image, prompt.mask, str(i)) for i in range(7)]
    with pytest.raises(LDISError, match="of 7 classes are the most"):
        add_prompt(names, prompt)


def test_videos_segment_gives_an_overlay_and_a_zip_of_label_maps(pipe, clip, tmp_path):
    labels = np.zeros((32, 48), np.uint8)
    labels[8:20, 4:16] = 2
    np.testing.assert_array_equal(videos.first_frame(clip, LIMITS).shape, (32, 48, 3))
    results = list(videos.segment(pipe, clip, labels, LIMITS, tmp_path))
    assert [result.done for result in results] == [1, 2, 3, 4, 5, 6, 6]
    assert all(result.video is None for result in results[:-1])
    written = videos.read_video(results[-1].video)
    assert len(list(written)) == 6 and written.fps == 5
    expected = list(pipe.segment_video(videos.read_video(clip), labels))
    with zipfile.ZipFile(results[-1].masks) as archive:
        assert archive.namelist() == [f"{i:05d}.png" for i in range(6)]
        for name, label_map in zip(archive.namelist(), expected, strict=True):
            np.testing.assert_array_equal(array(io.BytesIO(archive.read(name))), label_map)


def test_videos_segment_takes_an_animation_with_a_frame_of_another_size(pipe, tmp_path):
    frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 700, 200])
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: data.rindex(b"\x2c") + 12])  # in the last image
    labels = np.zeros((32, 48), np.uint8)
    labels[8:20, 4:16] = 2
    (tmp_path / "out").mkdir()
    *_, last = videos.segment(pipe, str(tmp_path / "a.gif"), labels, LIMITS, tmp_path / "out")
    assert not last.notes and last.done == 3
    times = [frame.seconds for frame in videos.read_video(last.video).frames()]
    assert times == pytest.approx([0.1, 0.7, 0.2], abs=1e-4)
    *_, last = videos.segment(pipe, str(tmp_path / "cut.gif"), labels, LIMITS, tmp_path / "out")
    assert list(last.notes) == ["cut.gif: ends after 2 frames; the file is damaged or cut off"]


def test_film_of_ends_when_it_takes_too_long(clip, tmp_path):
    assert len(list(videos.read_video(videos.film_of(clip, LIMITS, tmp_path)))) == 6

    def late(frames):
        yield next(frames)
        raise LDISError("Stopped after 10 minutes")

    (tmp_path / "animation.mp4").unlink()
    with pytest.raises(LDISError, match="Stopped after"):
        videos.film_of(clip, LIMITS, tmp_path, late)
    assert not list(tmp_path.iterdir())


def test_videos_segment_leaves_no_files_of_a_video_that_fails(pipe, clip, tmp_path):
    with pytest.raises(LDISError, match=r"video: 48x32 is more than"):
        list(videos.segment(pipe, clip, np.ones((32, 48), np.uint8), Limits(megapixels=0.001), tmp_path))
    assert not {path.suffix for path in tmp_path.iterdir()} & {".mp4", ".zip"}


@pytest.mark.parametrize("photographs", [True, False])
def test_make_examples_gives_the_same_every_time(photographs):
    first, second = make_examples(photographs), make_examples(photographs)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.query, b.query)
        assert a.image().shape[0] == 256 and a.image().shape[1] > 256 * (len(a.prompts) + 1)
        assert all(prompt.mask.any() and prompt.mask.shape == prompt.image.shape[:2] for prompt in a.prompts)
    assert [len(by_class(example.prompts)) for example in first] == ([1, 1] if photographs else [1, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=nowhere", "--port=0"], "nowhere"),
        (["--model=x", "--port=99999"], "--port=99999"),
        (["--model=x", "--host=not.an.address.invalid"], "cannot be served"),
        (
            ["--model=x", "--port=0", "--host=0.0.0.0"],
            "other machines reach this address; give --user and --password, or --open",
        ),
        (["--model=x", "--port=0", "--user=me"], "give both, or none"),
        (["--model=x", "--port=0", "--password=word"], "give both, or none"),
        (["--model=x", "--port=0", "--user=a:b", "--password=word"], "no colon"),
        (["--model=nowhere", "--port=0", "--host=0.0.0.0", "--open"], "nowhere"),
        (["--model=nowhere", "--port=0", "--host=0.0.0.0", "--user=me", "--password=word"], "nowhere"),
    ],
)
def test_demo_exits_with_2_and_one_line_on_bad_usage(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = call_command(command.main, monkeypatch, capsys, *arguments)
    assert status == 2 and message in err and err.count("\n") == 1


def test_demo_help_waits_for_nothing_and_offers_no_sharing():
    code = (
        "import sys; sys.argv = ['demo', '--help']\n"
        "import runpy\ntry: runpy.run_module('ldis_jax.demo', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'jax', 'gradio', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "python -m ldis_jax.demo --model=" in result.stdout
    assert not re.search("--share", result.stdout)
