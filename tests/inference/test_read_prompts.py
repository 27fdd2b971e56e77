"""Prompts of label maps: the label of each by number or name, and what is said where it cannot be told."""

import json

import numpy as np
import pytest
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.inference.read_prompts import labelled, open_prompts, read_prompts

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
LABELS = np.zeros((32, 40), np.uint8)
LABELS[2:20, 3:15], LABELS[8:30, 22:38], LABELS[0] = 1, 2, 255
NAMES = ["background", "limb", "trunk"]


@pytest.fixture(params=["masks", "masks/train", "SegmentationClass", "labels"])
def label_map(request, tmp_path):
    """A label map in a folder of each layout, with names beside it."""
    path = tmp_path / request.param / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(LABELS).save(path)
    (tmp_path / "classes.json").write_text(json.dumps({"names": NAMES, "ignore": 255}))
    return path


def opened(*prompts, **options):
    """Masks of prompts of one class."""
    return [mask for _, mask in open_prompts({"object": prompts}, **options)["object"]]


@pytest.mark.parametrize("label", [2, "2", "trunk", np.int64(2)])
def test_open_prompts_takes_a_label_as_a_number_or_a_name(label_map, label, caplog):
    for path in (label_map, str(label_map)):
        [mask] = opened((IMAGE, path, label))
        np.testing.assert_array_equal(mask, np.where(LABELS == 255, 255, LABELS == 2))
    assert "255 is ignored" in caplog.text
    caplog.clear()
    opened((IMAGE, label_map, label), ignore_label=255)
    assert not caplog.records


def test_open_prompts_takes_a_label_of_its_own_for_every_prompt(label_map):
    prompts = [(IMAGE, label_map, 1), (IMAGE, LABELS, 2), (IMAGE, LABELS == 2), (IMAGE, LABELS == 1, None)]
    found = [mask == 1 for mask in opened(*prompts)]
    for mask, its in zip(found, (1, 2, 2, 1), strict=True):
        np.testing.assert_array_equal(mask, its == LABELS)
    _, masks, counts = read_prompts({"limb": prompts[:1], "trunk": prompts[1:]}, 16)
    assert counts.tolist() == [1, 3] and (masks[0, 0] == 1).any() and (masks[0, 0] != masks[1, 0]).any()


def test_labelled_gives_a_label_for_all_to_those_without_one():
    assert labelled([("a", "b"), ("c", "d", 3), ("e", "f", None)], 7) == [("a", "b", 7), ("c", "d", 3), ("e", "f", 7)]
    assert labelled([("a", "b")], None) == [("a", "b")]
    with pytest.raises(LDISError, match="prompts: give at least one"):
        labelled(["a.png", "b.png"], 7)


def test_open_prompts_ignores_names_of_another_program_unless_asked_for_one(label_map):
    (label_map.parent / "classes.json").write_text('{"0": "limb"}')
    assert (opened((IMAGE, label_map, 2))[0] == 1).sum() == (LABELS == 2).sum()
    with pytest.raises(LDISError, match="labels 1, 2; choose one"):
        opened((IMAGE, label_map))
    with pytest.raises(LDISError, match=r"classes.json, \{\"names\": .* a name for each label: cannot be read"):
        opened((IMAGE, label_map, "limb"))


def test_open_prompts_ignores_a_classes_json_far_above_the_map(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps({"names": NAMES}))
    path = tmp_path / "set" / "labels" / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(LABELS).save(path)
    with pytest.raises(LDISError, match="labels 1, 2; choose one"):
        opened((IMAGE, path))


def test_open_prompts_reads_a_palette_with_names_as_in_training(label_map):
    image = Image.fromarray((LABELS == 1).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(label_map)
    np.testing.assert_array_equal(opened((IMAGE, label_map))[0], LABELS == 1)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            None,
            r"prompt 1 \(.*a.png\): labels 1 \(limb\), 2 \(trunk\); choose one: MASK@1 on the command line, label=1",
        ),
        (3, r"prompt 1 \(.*a.png\): no label 3 in it; it has 1 \(limb\), 2 \(trunk\)$"),
        ("tree", r"no label named 'tree'; .*classes.json has 1 \(limb\), 2 \(trunk\); a label may also be a number"),
        ("", "no label named ''"),
        ("-1", "no label named '-1'"),
        ("9" * 5000, "no label named '999"),
        ("background", "label=0: must be an integer of at least 1; 0 is the background"),
        (0, "label=0: must be"),
        (1.5, "label=1.5: must be an integer"),
        ((1, 2), r"label=\(1, 2\): must be an integer"),
    ],
)
def test_open_prompts_rejects_what_cannot_be_chosen_in_one_line(label_map, label, message):
    with pytest.raises(LDISError, match=message) as info:
        opened((IMAGE, label_map, label))
    assert "\n" not in str(info.value)


def test_open_prompts_has_no_names_for_an_array():
    with pytest.raises(LDISError, match=r"prompt 1: no label named .limb.; there is no classes\.json beside it"):
        opened((IMAGE, LABELS, "limb"))


@pytest.mark.parametrize("prompts", [[], [(IMAGE,)], [(IMAGE, LABELS, 1, 2)], [IMAGE], ["ab"]])
def test_open_prompts_takes_pairs_or_triples_only(prompts):
    with pytest.raises(LDISError, match=r"prompts: give at least one \(image, mask\) pair for every class, or \(image"):
        opened(*prompts)
