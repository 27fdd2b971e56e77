"""Label maps as prompts on the command line, and the names of several classes in what it writes."""

import json

import numpy as np
import pytest

from ldis_jax.media.images import read_image, write_png
from ldis_jax.media.masks import read_label_map
from ldis_jax.media.overlays import overlay, overlay_labels
from ldis_jax.media.videos import video_writer
from tests import test_segment

model, work, run = test_segment.model, test_segment.work, test_segment.run  # fixtures
LABELLED = np.zeros((24, 24), np.uint8)
LABELLED[3:20, 2:11], LABELLED[5:22, 13:23] = 1, 2


@pytest.fixture
def label_map(work):
    """``set/masks/a.png`` of cat.png, with names of its two labels beside the folder."""
    write_png("set/masks/a.png", LABELLED)
    (work / "set/classes.json").write_text('{"names": ["background", "limb", "tree trunk"]}')
    return "cat.png:set/masks/a.png"


@pytest.mark.parametrize("label", ["2", "tree trunk"])
def test_segment_takes_a_label_of_a_label_map(run, work, model, label_map, label):
    status, _, err = run("--query=photos/0/q0.png", f"--prompt={label_map}@{label}", "--out=mask.png")
    assert status == 0, err
    for of_label in ({"label": label}, {"label": 2}):
        expected = model("photos/0/q0.png", [("cat.png", "set/masks/a.png")], **of_label)
        np.testing.assert_array_equal(read_label_map("mask.png"), 255 * expected.mask)
    own = model("photos/0/q0.png", [("cat.png", LABELLED == 2)])
    np.testing.assert_array_equal(own.probability, expected.probability)


def test_segment_takes_the_classes_of_one_label_map(run, work, model, label_map):
    flags = [f"--prompt=limb={label_map}@limb", f"--prompt=trunk={label_map}@2", "--overlay=over.png"]
    status, _, err = run("--query=photos/0/q0.png", *flags, "--out=labels.png", "--json=found.json", "--quiet")
    assert status == 0, err
    prompts = {"limb": [("cat.png", "set/masks/a.png", 1)], "trunk": [("cat.png", "set/masks/a.png", "tree trunk")]}
    expected = model.segment_classes("photos/0/q0.png", prompts)
    np.testing.assert_array_equal(read_label_map("labels.png"), expected.label_map)
    found = json.loads((work / "found.json").read_text())
    assert found["classes"] == {"1": "limb", "2": "trunk"} and list(found["masks"][0]["covers"]) == ["limb", "trunk"]


def test_segment_does_not_go_on_with_another_label(run, work, label_map):
    flags = ["--query=photos/0", "--out=masks", "--quiet"]
    assert run(*flags, f"--prompt={label_map}@2")[0] == 0
    assert run(*flags, f"--prompt={label_map}@tree trunk")[0] == 0
    status, _, err = run(*flags, f"--prompt={label_map}@1")
    assert status == 2 and "this command did not make it with these prompts" in err


@pytest.mark.parametrize("name", ["a@2.png", "a.png@2", "@", "a:b@c=d.png"])
def test_segment_takes_names_with_an_at_sign(run, work, model, name):
    (work / "x@y").mkdir()
    write_png("mask.png", (LABELLED == 2))
    (work / "mask.png").rename(work / f"x@y/{name}")
    write_png("labels.png", LABELLED)
    (work / "labels.png").rename(work / "x@y/labels.png")
    expected = model("photos/0/q0.png", [("cat.png", LABELLED == 2)]).mask
    for i, mask in enumerate((name, "labels.png@2")):
        status, _, err = run("--query=photos/0/q0.png", f"--prompt=cat.png:x@y/{mask}", f"--out={i}.png", "--quiet")
        assert status == 0, err
        np.testing.assert_array_equal(read_label_map(f"{i}.png"), 255 * expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("set/masks/a.png", "labels 1 (limb), 2 (tree trunk); choose one: MASK@1 on the command line"),
        ("set/masks/a.png@3", "no label 3 in it; it has 1 (limb), 2 (tree trunk)"),
        ("set/masks/a.png@trunk", "no label named 'trunk'; "),
        ("set/masks/a.png@", "write IMAGE:MASK, or IMAGE:MASK@LABEL"),
        ("set/masks/none.png@2", "none.png@2: no such file"),
        ("cat_mask.png@1", "no label 1 in it; it holds no labels: leave the label out"),
    ],
)
def test_segment_rejects_labels_that_cannot_be_chosen(run, work, label_map, mask, message):
    before = sorted(work.rglob("*"))
    status, _, err = run("--query=photos/0/q0.png", f"--prompt=cat.png:{mask}", "--out=m.png", "--quiet")
    assert status == 2 and message in err and err.count("\n") == 1
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("how", ["prompts", "first mask"])
def test_segment_names_the_classes_of_a_video(run, work, label_map, how):
    with video_writer("large.mp4", 10) as write:
        for _ in range(2):
            write(np.zeros((80, 96, 3), np.uint8))
    write_png("set/masks/first.png", np.kron(LABELLED, np.ones((4, 4), np.uint8))[:80])
    given = [f"--prompt=limb={label_map}@1", f"--prompt=trunk={label_map}@2"]
    given = given if how == "prompts" else ["--first_mask=set/masks/first.png"]
    flags = ["--query=large.mp4", "--out=masks", "--overlay=over", "--json=found.json", "--quiet"]
    status, _, err = run(*flags, *given)
    assert status == 0, err
    names = {"1": "limb", "2": "trunk" if how == "prompts" else "tree trunk"}
    found = json.loads((work / "found.json").read_text())
    assert found["classes"] == names
    assert all(list(mask["covers"]) == list(names.values()) for mask in found["masks"])
    for i in range(2):
        shown = read_image(f"over/{i:06}.png")
        assert (shown.min(-1) > 200).sum() > 50, "white letters of a legend on black frames"


def test_segment_draws_no_legend_for_one_object_or_without_names(run, work):
    with video_writer("large.mp4", 10) as write:
        write(np.zeros((80, 96, 3), np.uint8))
    write_png("first.png", np.kron(LABELLED, np.ones((4, 4), np.uint8))[:80])
    flags = ["--query=large.mp4", "--overlay=over", "--json=found.json", "--quiet"]
    for i, given in enumerate((["--first_mask=first.png"], ["--prompt=cat.png:cat_mask.png"])):
        assert run(*flags, *given, f"--out=masks{i}", f"--overlay=over{i}")[0] == 0
        labels, shown = read_label_map(f"masks{i}/000000.png"), read_image(f"over{i}/000000.png")
        expected = (
            overlay_labels(np.zeros_like(shown), labels) if i == 0 else overlay(np.zeros_like(shown), labels == 1)
        )
        np.testing.assert_array_equal(shown, expected)
        assert "classes" not in json.loads((work / "found.json").read_text())
