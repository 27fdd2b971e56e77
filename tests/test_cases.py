"""Files as people have them, each at the door its owner would knock at: read as meant, or refused in one line.

Every file that lies beside the cases' README is in a test here.
"""

import json
import re
import subprocess

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter
from safetensors.numpy import load_file

from ldis_jax import LDISPipeline, segment
from ldis_jax.errors import LDISError
from ldis_jax.media.images import read_image
from ldis_jax.media.masks import read_label_map
from ldis_jax.media.videos import read_video
from ldis_jax.weights.hub import resolve
from ldis_jax.weights.model_folder import open_model
from tests.helpers import CASES, ROOT, call_command, needs_cases

pytestmark = needs_cases
PROMPT, GOOD = CASES / "prompt.png", CASES / "prompt_mask_good.png"
QUERY = ROOT / "examples" / "query.png"  # what the images of endings/ and their like show


@pytest.fixture(scope="module")
def model(micro_folder):
    """Read once for all commands."""
    pipe = LDISPipeline.from_pretrained(micro_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LDISPipeline, "from_pretrained", classmethod(lambda cls, folder, **_: pipe))
        patch.setattr(LDISPipeline, "to", lambda self, **options: self)
        yield pipe


@pytest.fixture
def run(model, micro_folder, tmp_path, monkeypatch, capsys, caplog):
    """(status, what was found, warnings and errors) of ``segment``; a refusal is one line and leaves nothing."""

    def segmented(*arguments, out="out", **options):
        caplog.clear()
        made = tmp_path / "made"
        report = made / "report.json"
        flags = [f"--{name}={value}" for name, value in options.items()]
        outputs = [f"--out={made / out}", f"--json={report}"]
        command = [f"--model={micro_folder}", "--quiet", *outputs, *flags, *arguments]
        status, printed, error = call_command(segment.main, monkeypatch, capsys, *command)
        said = [record.getMessage() for record in caplog.records if record.name.startswith("ldis_jax")]
        assert not printed and "Traceback" not in error
        if status:
            assert status == 2 and error.startswith("error: ") and error.count("\n") == 1
            assert not [path for path in made.rglob("*") if path.is_file()]
            return status, None, [*said, error]
        return status, json.loads(report.read_text())["masks"], said

    segmented.made = tmp_path / "made"
    return segmented


def film(run, name, *arguments):
    """(label maps of a video, what was said); its overlay is of that many frames."""
    overlay = run.made / "overlay.mp4"
    status, masks, said = run(
        f"--query={CASES / name}", f"--first_mask={CASES / 'frames_first.png'}", f"--overlay={overlay}", *arguments
    )
    assert status == 0, said
    assert len(list(read_video(overlay))) == len(masks)
    return [read_label_map(mask["mask"]) for mask in masks], said


def test_cases_all_have_a_test():
    text = (ROOT / "tests" / "test_cases.py").read_text()
    for path in CASES.iterdir():
        assert path.name == "README.md" or re.search(f"[\"']{path.name}", text), path.name


@pytest.mark.parametrize("folder", ["frames", "framesmac"])
def test_segment_takes_frames_in_the_order_of_their_numbers(run, folder):
    labels, said = film(run, folder)
    assert sorted(path.name for path in (run.made / "out").glob("*.png")) == sorted(
        path.name for path in (CASES / folder).glob("*.png") if not path.name.startswith("._")
    )
    assert len(labels) == 12 and not said
    bars = [np.argmax(frame.std(0).sum(-1)) for frame in read_video(CASES / folder)]
    assert bars == sorted(bars)


def test_segment_reads_images_of_every_ending(run):
    _, masks, said = run(f"--query={CASES / 'endings'}", f"--prompt={PROMPT}:{GOOD}")
    assert [mask["query"].rsplit("/", 1)[1] for mask in masks] == [
        *("a.jpg", "b.jfif", "c.avif", "d.ppm", "e.gif", "f.jp2")
    ]
    for mask in masks:
        assert np.abs(read_image(mask["query"]).astype(int) - read_image(QUERY)).mean() < 15
    assert not said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("palette_white_first.png", ""),
        ("cutout_keep_rgb.png", "alpha"),
        ("antialiased.png", "soft"),
        ("was_jpeg.png", "soft"),
        ("lossy.jp2", "soft"),
    ],
)
def test_segment_reads_masks_as_meant(run, model, name, words):
    status, (mask,), said = run(f"--query={QUERY}", f"--prompt={PROMPT}:{CASES / name}", out="mask.png")
    assert status == 0 and (words in said[0] if words else not said)
    meant = model(QUERY, [(PROMPT, GOOD)])
    found = model(QUERY, [(PROMPT, CASES / name)])
    np.testing.assert_array_equal(read_label_map(mask["mask"]), 255 * found.mask)
    if name != "lossy.jp2":  # of which a few pixels are on the other side
        np.testing.assert_array_equal(found.probability, meant.probability)
    np.testing.assert_allclose(found.probability, meant.probability, atol=0.02)


def test_segment_refuses_a_mask_in_false_colours(run):
    status, _, (line,) = run(f"--query={QUERY}", f"--prompt={PROMPT}:{CASES / 'viridis.png'}", out="mask.png")
    assert status == 2 and "colours beside black" in line


def test_segment_takes_blurred_labels_of_a_first_frame_as_one_object(run, tmp_path):
    sharp = Image.open(CASES / "first.png")
    sharp.convert("L").point(lambda value: 255 * (value > 0)).filter(ImageFilter.GaussianBlur(2)).save(
        tmp_path / "first.png"
    )
    status, masks, said = run(f"--query={CASES / 'frames'}", f"--first_mask={tmp_path / 'first.png'}")
    assert status == 0 and any("soft" in line for line in said)
    assert {value for mask in masks for value in np.unique(read_label_map(mask["mask"]))} <= {0, 1}


def test_read_image_ignores_broken_exif_of_a_whole_image(run):
    np.testing.assert_array_equal(read_image(CASES / "exif_bad.webp"), read_image(QUERY))
    assert run(f"--query={CASES / 'exif_bad.webp'}", f"--prompt={PROMPT}:{GOOD}", out="mask.png")[0] == 0


def test_segment_reads_twelve_bits_in_sixteen_and_says_so(run):
    status, _, said = run(f"--query={CASES / 'grey12.png'}", f"--prompt={PROMPT}:{GOOD}", out="mask.png")
    assert status == 0 and said and all("12 bits in 16" in line for line in said)
    grey = cv2.cvtColor(read_image(QUERY), cv2.COLOR_RGB2GRAY)
    assert np.abs(read_image(CASES / "grey12.png")[..., 0].astype(int) - grey).mean() < 4


@pytest.mark.parametrize(
    ("name", "frames", "words"),
    [
        ("hole.mp4", 57, "3 of 60 frames are missing"),
        ("cut.avi", 2, "58 of 60 frames are missing"),
        ("resized.mkv", 8, "fitted to the first one's size"),
        ("vfr.mp4", 8, ""),
        ("hflip.mp4", 8, ""),
        ("clip.gif", 8, ""),
    ],
)
def test_segment_goes_on_with_a_faulty_video_and_says_so(run, name, frames, words):
    labels, said = film(run, name)
    assert len(labels) == frames and {map_.shape for map_ in labels} == {(64, 96)}
    assert len(said) == bool(words) and all(words in line for line in said)


def test_segment_refuses_a_video_without_a_frame(run):
    status, _, (line,) = run(f"--query={CASES / 'none.avi'}", f"--first_mask={CASES / 'frames_first.png'}")
    assert status == 2 and "no frame of it can be decoded" in line


def test_read_video_mirrors_a_video_as_its_matrix_says():
    av = pytest.importorskip("av")
    with av.open(str(CASES / "hflip.mp4")) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for shown, frame in zip(read_video(CASES / "hflip.mp4"), stored, strict=True):
        np.testing.assert_array_equal(shown, frame[:, ::-1])


def test_segment_keeps_the_times_of_frames_in_the_overlay(run):
    av = pytest.importorskip("av")
    film(run, "vfr.mp4")
    times = []
    for path in (CASES / "vfr.mp4", run.made / "overlay.mp4"):
        with av.open(str(path)) as container:
            times.append([frame.time for frame in container.decode(video=0)])
    np.testing.assert_allclose(times[0], times[1], atol=1e-3)


def test_open_model_scales_a_lora_of_diffusers_by_its_metadata():
    path = CASES / "lora_meta.safetensors"
    base, merged = (open_model(resolve("tiny"), lora=lora)[2]["unet"].tensors for lora in (None, str(path)))
    pairs = load_file(path)
    layers = [name.removesuffix(".lora_A.weight") for name in pairs if name.endswith(".lora_A.weight")]
    for layer in layers:
        product = pairs[f"{layer}.lora_B.weight"] @ pairs[f"{layer}.lora_A.weight"]
        name = f"{layer.removeprefix('unet.')}.weight"
        np.testing.assert_allclose(merged[name].read() - base[name].read(), 4 * product, atol=1e-5)


@pytest.mark.parametrize("name", ["eps.png", "avif.bin", "blp.bin"])
def test_segment_refuses_hostile_files_in_one_line_at_every_door(run, monkeypatch, name):
    def started(*arguments, **options):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    bad, pair = CASES / "hostile" / name, f"{PROMPT}:{GOOD}"
    for arguments in (
        [f"--query={bad}", f"--prompt={pair}"],
        [f"--query={QUERY}", f"--prompt={bad}:{GOOD}"],
        [f"--query={QUERY}", f"--prompt={PROMPT}:{bad}"],
        [f"--query={CASES / 'clip.gif'}", f"--first_mask={bad}", "--out=out"],
    ):
        status, _, (line,) = run(*arguments, out="mask.png")
        assert status == 2 and str(bad) in line
    with pytest.raises(LDISError, match=re.escape(str(bad))):
        list(read_video(bad))
