"""The command: one image, many, several classes, videos; what stops it, and what it leaves."""

import itertools
import json
import os
import shutil
import stat

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from ldis_jax import LDISPipeline, segment
from ldis_jax.commands.segment_files import find_queries
from ldis_jax.media.images import read_image, write_png
from ldis_jax.media.masks import read_label_map
from ldis_jax.media.videos import read_video, video_writer
from tests.helpers import call_command


@pytest.fixture(scope="module")
def model(micro_folder):
    """Read once for all commands."""
    pipe = LDISPipeline.from_pretrained(micro_folder)
    patch = pytest.MonkeyPatch()
    patch.setattr(LDISPipeline, "from_pretrained", classmethod(lambda cls, folder, **_: pipe))
    patch.setattr(LDISPipeline, "to", lambda self, **options: self)
    yield pipe
    patch.undo()


@pytest.fixture
def work(tmp_path, monkeypatch, model):
    """A folder with prompts, five queries and a short video."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(5):
        write_png(f"photos/{i % 2}/q{i}.png", rng.integers(0, 256, (20 + i, 30, 3), np.uint8))
    frames = rng.integers(0, 256, (4, 32, 48, 3), np.uint8)
    with video_writer("clip.mp4", 10) as write:
        for i, frame in enumerate(frames):
            write(frame)
            write_png(f"frames/{i}.png", frame)
    labels = np.zeros((32, 48), np.uint8)
    labels[4:20, 4:20], labels[22:30, 30:44] = 3, 9
    write_png("first.png", labels)
    for name in ("cat", "dog"):
        write_png(f"{name}.png", rng.integers(0, 256, (24, 24, 3), np.uint8))
        write_png(f"{name}_mask.png", rng.integers(0, 2, (24, 24), np.uint8) * 255)
    return tmp_path


@pytest.fixture
def run(work, monkeypatch, capsys, micro_folder):
    return lambda *arguments: call_command(segment.main, monkeypatch, capsys, f"--model={micro_folder}", *arguments)


CAT, DOG = "cat.png:cat_mask.png", "dog.png:dog_mask.png"


def test_segment_compiles_for_one_image_while_weights_are_read(run, model, monkeypatch):
    asked = []
    read = classmethod(lambda cls, folder, dtype, compile_for: asked.append(compile_for) or model)
    monkeypatch.setattr(LDISPipeline, "from_pretrained", read)
    one = ["--query=photos/0/q0.png", f"--prompt=cat={CAT}", f"--prompt=cat={CAT}", f"--prompt=dog={DOG}"]
    for arguments in ([*one, "--out=mask.png"], [*one, "--out=mask.png", "--tile_size=16"], [*one, "--out=masks"]):
        assert run(*arguments, "--devices=1")[0] == 0
    assert asked == [{"num_prompts": 2, "num_classes": 2}, None, None]


def test_segment_takes_many_images_and_goes_on(run, work, model):
    status, out, err = run("--query", "photos/**/*.png", f"--prompt={CAT}", "--out=masks", "--overlay=over", "--quiet")
    assert (status, out, err) == (0, "", "")
    for i in range(5):
        query = f"photos/{i % 2}/q{i}.png"
        expected = model(query, [tuple(CAT.split(":"))])
        np.testing.assert_array_equal(read_label_map(work / f"masks/{i % 2}/q{i}.png"), 255 * expected.mask)
        np.testing.assert_array_equal(read_image(work / f"over/{i % 2}/q{i}.png"), expected.overlay(query))
    (work / "masks/0/q2.png").unlink()
    kept = (work / "masks/0/q0.png").stat().st_mtime_ns
    status, out, _ = run("--query", "photos/0", "photos/1", f"--prompt={CAT}", "--out=masks", "--overlay=over")
    assert status == 0 and "1 masks, and 4 that were there" in out
    assert (work / "masks/0/q0.png").stat().st_mtime_ns == kept and (work / "masks/0/q2.png").exists()
    status, _, err = run("--query", "photos/0", "photos/1", f"--prompt={DOG}", "--out=masks", "--overlay=over")
    assert status == 2 and "masks: is there, and this command did not make it with these prompts" in err


def test_segment_makes_what_is_missing_and_reports_the_whole(run, work):
    flags = ["--query=photos/0", f"--prompt=cat={CAT}", f"--prompt=dog={DOG}", "--out=masks", "--quiet"]
    assert run(*flags, "--json=first.json")[0] == 0
    (work / "masks/q2.png").unlink()
    # An overlay and a probability elsewhere: every image again, to the same masks.
    assert run(*flags, "--json=more.json", "--overlay=over", "--probability=p")[0] == 0
    assert len(list((work / "over").iterdir())) == 3 and len(list((work / "p").iterdir())) == 6
    (work / "p/q0.dog.png").unlink()
    kept = (work / "masks/q2.png").stat().st_mtime_ns
    assert run(*flags, "--json=again.json", "--overlay=over", "--probability=p")[0] == 0
    assert (work / "p/q0.dog.png").exists() and (work / "masks/q2.png").stat().st_mtime_ns == kept
    reports = [json.loads((work / f"{name}.json").read_text()) for name in ("first", "more", "again")]
    assert reports[0]["masks"] == reports[1]["masks"] == reports[2]["masks"] and reports[2]["skipped"] == 2
    (work / "elsewhere").mkdir()
    (work / "elsewhere/q0.png").write_bytes(b"mine")
    status, _, err = run(*flags, "--overlay=elsewhere")
    assert status == 2 and "elsewhere/q0.png: is there, and this command did not make it" in err
    status, _, err = run("--query=masks", *flags[1:], "--overlay=new")  # results as queries of their own folder
    assert status == 2 and "masks/q0.png: is read by this command" in err
    (work / "masks/segment.json").write_text("{")
    status, _, err = run(*flags)
    assert status == 2 and "masks: is there, and this command did not make it with these " in err


def test_segment_says_how_to_go_on_after_an_interruption(run, work, model, monkeypatch):
    segment_images = model.segment_images

    def interrupted(*arguments, **options):
        yield from itertools.islice(segment_images(*arguments, **options), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "segment_images", interrupted)
        status, _, err = run("--query=photos/0", f"--prompt={CAT}", "--out=masks", "--quiet")
    assert status == 130 and " of 3 images; the same command goes on" in err
    assert run("--query=photos/0", f"--prompt={CAT}", "--out=masks", "--quiet")[0] == 0
    assert len(list((work / "masks").glob("*.png"))) == 3


def test_segment_leaves_a_folder_of_another_video_alone(run, work):
    flags = ["--first_mask=first.png", "--out=masks", "--quiet"]
    assert run("--query=frames", *flags)[0] == 0
    assert run("--query=frames", *flags)[0] == 0
    (work / "frames/3.png").unlink()
    status, _, err = run("--query=frames", *flags)
    assert status == 2 and "masks: is there, and this command did not make it with these video" in err
    status, _, err = run("--query=frames", "--first_mask=first.png", "--out=photos/0")
    assert status == 2 and "this command did not make it" in err


def test_segment_rejects_what_may_not_be_read(run, work, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", forbidden)
        status, _, err = run("--query=photos/0", f"--prompt={CAT}", "--out=masks")
    assert status == 2 and "--query=photos/0: no image there that may be read" in err


def test_segment_writes_its_report_to_a_pipe(run, work):
    """What was found goes to /dev/stdout whole, and nothing else with it; no file takes its place."""
    os.mkfifo("pipe")
    with open(os.open("pipe", os.O_RDWR | os.O_NONBLOCK), encoding="utf-8") as pipe:
        status, out, err = run("--query=photos/0/q0.png", f"--prompt={CAT}", "--out=mask.png", "--json=pipe", "--quiet")
        assert (status, out, err) == (0, "", "")
        assert json.loads(pipe.read())["masks"][0]["mask"] == "mask.png"
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_segment_can_print_its_report(work, monkeypatch, capfd, micro_folder):
    flags = ["--query=photos/0/q0.png", f"--prompt={CAT}", "--out=mask.png", "--json=/dev/stdout"]
    status, out, err = call_command(segment.main, monkeypatch, capfd, f"--model={micro_folder}", *flags)
    assert (status, err) == (0, "") and json.loads(out)["masks"][0]["mask"] == "mask.png"


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_segment_keeps_outputs_that_are_links(run, work, quiet):
    for name in ("mask.png", "overlay.png", "found.json"):
        (work / name).symlink_to(f"real_{name}")
    outputs = ["--out=mask.png", "--overlay=overlay.png", "--json=found.json"]
    assert run("--query=photos/0/q0.png", f"--prompt={CAT}", *outputs, *quiet)[0] == 0
    for name in ("mask.png", "overlay.png", "found.json"):
        assert os.readlink(name) == f"real_{name}" and (work / f"real_{name}").stat().st_size


@pytest.mark.parametrize(
    "flag", ["--query=pipe", "--query=pipe.mp4", "--prompt=pipe:cat_mask.png", "--first_mask=pipe"]
)
def test_segment_does_not_wait_for_a_pipe_as_an_input(run, work, flag):
    for name in ("pipe", "pipe.mp4"):
        os.mkfifo(name)
    given = ["--query=clip.mp4" if flag.startswith("--first") else "--query=cat.png", f"--prompt={CAT}", "--out=masks"]
    if flag.startswith("--query"):
        given[0] = flag
    else:
        given[1] = flag
    status, _, err = run(*given, "--quiet")
    assert status == 2 and "is a pipe, a device or a socket" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "changed", ["--out=loop.png", f"--out={300 * 'x'}.png", f"--query={300 * 'x'}.png", "--json=loop.png", "--json=/"]
)
def test_segment_rejects_names_that_no_file_can_have(run, work, changed):
    (work / "loop.png").symlink_to("loop.png")
    before = sorted(work.rglob("*"))
    status, out, err = run("--query=photos/0/q0.png", f"--prompt={CAT}", "--out=mask.png", changed)
    assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(work.rglob("*")) == before


def test_segment_does_not_go_on_with_other_weights_in_the_same_folder(run, work, micro_folder):
    shutil.copytree(micro_folder, work / "model")
    flags = ["--model=model", "--query=photos/0", f"--prompt={CAT}", "--out=masks"]
    assert run(*flags)[0] == 0
    unet = work / "model/unet/diffusion_pytorch_model.safetensors"
    tensors = {name: -value for name, value in load_file(unet).items()}
    save_file(tensors, unet)
    status, _, err = run(*flags)
    assert status == 2 and "masks: is there, and this command did not make it with these model" in err


def test_segment_is_not_stopped_by_a_damaged_image_among_others(run, work):
    (work / "photos/0/broken.png").write_bytes((work / "photos/0/q0.png").read_bytes()[:99])
    status, _, err = run("--query=photos/0", f"--prompt={CAT}", "--out=masks", "--quiet", "--json=found.json")
    assert status == 2 and "1 of 4 images failed: photos/0/broken.png: damaged" in err
    found = json.loads((work / "found.json").read_text())
    assert [record["mask"] for record in found["masks"]] == [f"masks/q{i}.png" for i in (0, 2, 4)]
    assert len(found["failed"]) == 1


def test_segment_takes_several_classes(run, work, model):
    flags = [f"--prompt=cat={CAT}", f"--prompt=dog={DOG}", f"--prompt=cat={DOG}", "--probability=p.png"]
    status, out, err = run("--query=photos/0/q0.png", *flags, "--out=labels.png", "--json=found.json")
    assert status == 0, err
    pairs = {"cat": [tuple(CAT.split(":")), tuple(DOG.split(":"))], "dog": [tuple(DOG.split(":"))]}
    expected = model.segment_classes("photos/0/q0.png", pairs)
    np.testing.assert_array_equal(read_label_map(work / "labels.png"), expected.label_map)
    assert Image.open(work / "labels.png").mode == "P"
    dog = np.asarray(Image.open(work / "p.dog.png")) / 255
    np.testing.assert_allclose(dog, expected.probabilities[2], atol=0.5 / 255 + 1e-6)
    (record,) = json.loads((work / "found.json").read_text())["masks"]
    assert record["covers"]["cat"] == pytest.approx((expected.label_map == 1).mean())
    assert "cat covers" in out and "dog covers" in out


def test_segment_prints_scores_keeps_them_and_reads_them_again(run, work, model):
    status, out, err = run("--query=photos/0/q0.png", f"--prompt={CAT}", "--out=mask.png", "--json=found.json")
    result, found = (
        model("photos/0/q0.png", [("cat.png", "cat_mask.png")]),
        json.loads((work / "found.json").read_text()),
    )
    assert status == 0 and f"(score {result.score:.2f})" in out, err
    assert found["masks"][0]["scores"] == {"object": round(result.score, 4)} and not found["scores_are_calibrated"]
    many = ("--query=photos/**/*.png", f"--prompt=cat={CAT}", f"--prompt=dog={DOG}", "--out=masks", "--json=found.json")
    scores = []
    for _ in range(2):  # the second time, all masks are there
        assert run(*many)[0] == 0
        scores.append([mask["scores"] for mask in json.loads((work / "found.json").read_text())["masks"]])
    assert scores[0] == scores[1] and set(scores[0][0]) == {"cat", "dog"} and len(scores[0]) == 5


def test_segment_empties_a_mask_below_min_score_and_says_so(run, work, model):
    one = ("--query=photos/0/q0.png", f"--prompt=cat={CAT}", "--out=mask.png")
    status, out, err = run(*one, "--min_score=1")
    assert status == 0 and out.startswith("mask.png: cat is not there (score 0."), err
    assert not np.asarray(Image.open("mask.png")).any()
    assert run(*one, "--min_score=0")[0] == 0 and np.asarray(Image.open("mask.png")).any()
    status, _, err = run(*one, "--min_score=2")
    assert status == 2 and err == "error: min_score=2.0: must be from 0 to 1\n"
    classes = {"cat": [("cat.png", "cat_mask.png")], "dog": [("dog.png", "dog_mask.png")]}
    found = model.segment_classes("photos/0/q0.png", classes, min_score=1.0)
    assert not found.label_map.any() and found.probabilities[1:].any()
    [labels] = list(model.segment_video(["frames/0.png", "frames/1.png"], "first.png", min_score=1.0))[1:]
    assert not labels.any()


def test_segment_takes_a_video_with_its_first_mask(run, work, model):
    status, out, err = run("--query=clip.mp4", "--first_mask=first.png", "--out=masks", "--overlay=over.mp4")
    assert status == 0 and "4 masks" in out, err
    expected = list(model.segment_video("clip.mp4", work / "first.png"))
    for i in range(4):
        np.testing.assert_array_equal(read_label_map(work / f"masks/{i:06}.png"), expected[i])
    over = read_video("over.mp4")
    assert (over.num_frames, over.fps) == (4, 10.0) and next(iter(over)).shape == (32, 48, 3)


def test_segment_takes_frames_of_a_folder(run, work, model):
    status, _, err = run("--query=frames", "--first_mask=first.png", "--out=masks", "--overlay=over", "--quiet")
    assert status == 0, err
    expected = list(model.segment_video(read_video("frames"), read_label_map("first.png")))
    np.testing.assert_array_equal(read_label_map(work / "masks/3.png"), expected[3])
    assert len(list((work / "over").iterdir())) == 4
    write_png("painted.png", (read_label_map("first.png") == 3))
    status, _, err = run("--query=frames", "--first_mask=painted.png", "--out=masks1", "--quiet")
    assert status == 0 and set(np.unique(read_label_map("masks1/0.png"))) == {0, 1}, err


def test_segment_takes_frames_one_by_one(run, work, model):
    flags = ["--first_mask=first.png", "--out=masks", "--overlay=over.mp4", "--quiet", "--json=found.json"]
    status, _, err = run("--query", "frames/2.png", "frames/0.png", "frames/3.png", *flags)
    assert (status, err) == (0, "")
    frames = [read_image(f"frames/{i}.png") for i in (2, 0, 3)]
    for i, labels in zip((2, 0, 3), model.segment_video(frames, "first.png"), strict=True):
        np.testing.assert_array_equal(read_label_map(work / f"masks/{i}.png"), labels)
    assert len(list((work / "masks").glob("*.png"))) == 3 and read_video("over.mp4").num_frames == 3
    found = json.loads((work / "found.json").read_text())
    assert [mask["query"] for mask in found["masks"]] == [f"frames/{i}.png" for i in (2, 0, 3)]
    status, _, err = run("--query", "frames/2.png", "frames/2.png", "--first_mask=first.png", "--out=twice", "--quiet")
    assert status == 0 and len(list((work / "twice").glob("*.png"))) == 2


def test_segment_warns_of_the_order_of_a_shell(run, work, caplog):
    (work / "frames/3.png").rename("frames/10.png")
    flags = ["--first_mask=first.png", "--quiet"]
    assert run("--query", *sorted(map(str, work.glob("frames/*"))), *flags, "--out=a")[0] == 0
    assert "frames come in the order given, not in that of their numbers: see " in caplog.text
    assert caplog.text.count("frames/10.png") == 1
    caplog.clear()
    assert run("--query=frames/*.png", *flags, "--out=b")[0] == 0
    assert run("--query", "frames/2.png", "frames/1.png", *flags, "--out=c")[0] == 0
    assert not caplog.records


def test_segment_takes_an_animation_with_its_first_mask(run, work, model, caplog):
    first, *others = [Image.open(f"frames/{i}.png") for i in range(4)]
    first.save("clip.webp", save_all=True, append_images=others, duration=[100, 900, 100, 200], lossless=True)
    flags = ["--out=masks", "--overlay=over.mp4", "--quiet"]
    assert run("--query=clip.webp", "--first_mask=first.png", *flags)[0] == 0
    assert not caplog.records
    for i, labels in enumerate(model.segment_video(read_video("frames"), "first.png")):
        np.testing.assert_array_equal(read_label_map(work / f"masks/{i:06}.png"), labels)
    assert [frame.seconds for frame in read_video("over.mp4").frames()] == pytest.approx([0.1, 0.9, 0.1, 0.2], abs=1e-4)
    assert run("--query=clip.webp", f"--prompt={CAT}", "--out=mask.png", "--quiet")[0] == 0
    assert "clip.webp: holds several images; the first one is used" in caplog.text
    np.testing.assert_array_equal(read_label_map("mask.png") > 0, model("frames/0.png", [tuple(CAT.split(":"))]).mask)


def test_segment_makes_another_mask_of_an_image_that_is_replaced(run, work, model, caplog):
    flags = ["--query=photos/0", f"--prompt={CAT}", "--out=masks", "--overlay=over", "--quiet"]
    assert run(*flags)[0] == 0
    kept = (work / "masks/q0.png").stat().st_mtime_ns
    write_png("photos/0/q2.png", read_image("photos/1/q3.png"))
    with pytest.MonkeyPatch.context() as patch:  # ended before it is made again
        patch.setattr(model, "segment_images", lambda images, *_, **__: iter([next(images)][:0]))
        run(*flags)
    assert not (work / "masks/q2.png").exists() and "1 images have changed since" in caplog.text
    assert run(*flags)[0] == 0
    expected = model("photos/1/q3.png", [tuple(CAT.split(":"))])
    np.testing.assert_array_equal(read_label_map(work / "masks/q2.png"), 255 * expected.mask)
    assert (work / "masks/q0.png").stat().st_mtime_ns == kept


def test_find_queries_orders_folders_and_patterns_by_their_numbers(tmp_path):
    for i in (10, 9, 1):
        write_png(tmp_path / f"{i}.png", np.zeros((4, 4), np.uint8))
        Image.new("L", (4, 4)).save(tmp_path / f"b{i}.ppm")
    (tmp_path / "._1.png").write_bytes(b"Mac OS X")
    names = ["1.png", "9.png", "10.png"]
    assert [path.name for path in find_queries([str(tmp_path)])] == [*names, "b1.ppm", "b9.ppm", "b10.ppm"]
    assert [path.name for path in find_queries([f"{tmp_path}/*.png"])] == names


def test_segment_takes_a_video_with_prompts(run, work, model):
    status, _, err = run("--query=clip.mp4", f"--prompt={CAT}", "--out=masks", "--quiet")
    assert status == 0, err
    (*_, last) = read_video("clip.mp4")
    np.testing.assert_array_equal(read_label_map("masks/000003.png"), model(last, [tuple(CAT.split(":"))]).mask)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query=nothing*.png", f"--prompt={CAT}", "--out=m"], "--query=nothing*.png: no image there"),
        (["--query=photos", f"--prompt={CAT}", "--out=m"], "--query=photos: no image there"),
        (["--query", "clip.mp4", "cat.png", f"--prompt={CAT}", "--out=m"], "a video is one file"),
        (["--query=photos/0", f"--prompt={CAT}", "--out=m.png"], "give a folder, such as --out=masks"),
        (["--query=photos/0", "--prompt=cat.png:first.png", "--out=m", "--quiet"], "labels 3, 9; choose"),
        (["--query=photos/0", f"--prompt={CAT}", "--out=photos/0"], "this command did not make it"),
        (["--query=cat.png", f"--prompt={DOG}", "--out=cat.png"], "--out=cat.png: is read by this command"),
        (["--query=cat.png", f"--prompt={DOG}", "--out=./dog_mask.png"], "--out=dog_mask.png: is read by this command"),
        (["--query=clip.mp4", "--first_mask=first.png", "--out=m", "--overlay=clip.mp4"], "is read by this command"),
        (["--query=photos/0", f"--prompt={CAT}", "--out=m", "--overlay=m"], "--overlay=m: is --out, too"),
        (["--query=cat.png", f"--prompt={DOG}", "--out=m.png", "--json=cat.png/j.json"], "no right to write in"),
        (["--query=cat.png", "--first_mask=first.png", "--out=m", "--quiet"], "must be of the first frame's size"),
        (["--query", "clip.mp4", "cat.png", "--first_mask=first.png", "--out=m"], "frames that are images"),
        (["--query=clip.mp4", f"--prompt={CAT}", "--out=m", "--probability=p"], "--probability: a video has none"),
        (["--query=cat.png", "--prompt=cat.png", "--out=m.png"], "--prompt=cat.png: write IMAGE:MASK"),
        (
            ["--query=cat.png", f"--prompt={CAT}", f"--prompt=dog={DOG}", "--out=m.png"],
            "NAME=IMAGE:MASK for every prompt",
        ),
        (["--query=cat.png", f"--prompt=a/b={CAT}", "--out=m.png"], "with a name of letters"),
        (["--query=clip.mp4", "--first_mask=cat.png", "--out=m"], "colours beside black; save label values"),
        (["--query=clip.mp4", "--first_mask=first.png", "--out=m.png"], "give a folder, such as"),
        (["--query=clip.mp4", "--first_mask=first.png", "--out=m", "--overlay=o.gif"], "overlay may be an .mp4"),
        (
            ["--query=clip.mp4", "--first_mask=cat_mask.png", "--out=m", "--quiet"],
            "must be of the first frame's size, (32, 48)",
        ),
        (["--query", "cat.png", "photos/../cat.jpg", f"--prompt={CAT}", "--out=m"], "no image there"),
    ],
)
def test_segment_leaves_nothing_after_bad_input(run, work, flags, message):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    status, _, err = run(*flags)
    assert status == 2 and message in err and err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query=clip.mp4"], "one of the arguments --prompt --first_mask is required"),
        (["--query=cat.png"], "one of the arguments --prompt --first_mask is required"),
        (["--query=clip.mp4", "--first_mask=first.png", f"--prompt={CAT}"], "not allowed with argument"),
    ],
)
def test_segment_takes_either_prompts_or_a_first_mask(run, flags, message):
    status, _, err = run(*flags, "--out=m")
    assert status == 2 and message in err


@pytest.mark.parametrize("prompt", ["cat.png:none.png", "clip.mp4:cat_mask.png", "cat.png:first.png"])
def test_segment_checks_prompts_before_it_reads_a_model(run, monkeypatch, prompt):
    monkeypatch.setattr(LDISPipeline, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    status, _, err = run("--query=cat.png", f"--prompt={prompt}", "--out=m.png")
    assert status == 2 and err.count("\n") == 1


def test_segment_rejects_two_queries_of_one_name(run, work):
    (work / "photos/0/q0.jpg").write_bytes((work / "photos/0/q0.png").read_bytes())
    status, _, err = run("--query=photos/0", f"--prompt={CAT}", "--out=m")
    assert status == 2 and "m/q0.png: is --out of photos/0/q0." in err and "too; write the result elsewhere" in err
