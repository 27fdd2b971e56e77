"""One folder or several to evaluate on: which images are queries and prompts, and of which classes."""

import json
from pathlib import Path

import numpy as np
import pytest

from ldis_jax.datasets.folder_check import check_folder
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.chosen_folders import HELD_OUT, Choice, ChosenFolders
from tests.data import trees
from tests.data.test_folder_check import box, boxes, image_folder

NAMES = {"names": ["background", "cat", "dog", "owl"], "unseen_classes": [2, 3]}


def zoo(root, names=NAMES):
    """Label maps: six images of a cat (1), four of them with a smaller dog (2); one of an owl (3)."""
    masks = {f"cat{i}": box(1) for i in range(6)}
    for i in range(4):
        masks[f"cat{i}"][20:22, 2:10] = 2
    image_folder(root, masks | {"owl": box(3)})
    (root / "classes.json").write_text(json.dumps(names))
    return root


@pytest.fixture
def root(tmp_path):
    return zoo(tmp_path / "zoo")


def drawn(root, num_shots=1, most=None, **choice):
    return ChosenFolders([root], Choice(**choice)).draw_each(num_shots, most)


def pairs(records):
    return {(record.query, record.class_name) for record in records}


def test_chosen_folders_ask_every_query_once_for_each_class_that_it_shows(root):
    records = drawn(root)
    everything = {(f"cat{i}", "cat") for i in range(6)} | {(f"cat{i}", "dog") for i in range(4)}
    assert pairs(records) == everything and len(records) == 10
    source = ChosenFolders([root], Choice())
    assert source.left_out(1) == ["owl: 1 queries, 0 prompts for one"]
    for record in source.draw_each(3):
        assert len({record.query, *record.prompts}) == 4
        episode = source.episode(record)
        assert all((mask == 1).any() for mask in (episode.query_mask, *episode.prompt_masks))
        assert {"cat": 1, "dog": 2}[episode.class_name] == episode.class_id


def test_chosen_folders_draw_by_seed_and_index(root):
    source = ChosenFolders([root], Choice())
    assert source.draw_each(2) == source.draw_each(2) != source.draw_each(2, seed=1)
    few, more = source.draw_each(2, most=2), source.draw_each(2, most=3)
    assert set(few) < set(more) < set(source.draw_each(2))
    assert [r.class_name for r in few].count("dog") == [r.class_name for r in few].count("cat") == 2


def test_chosen_folders_hold_out_the_images_that_training_does(root):
    checked = check_folder(root)
    held_out = {name.decode() for name in checked.index.names[checked.held_out]}
    records = drawn(root, queries=HELD_OUT)
    assert held_out and {record.query for record in records} == held_out
    assert not held_out & {name for record in records for name in record.prompts}
    trees.lines(root / "train.txt", *(f"cat{i}" for i in range(4)))
    trees.lines(root / "val.txt", "cat4", "cat5")
    assert {record.query for record in drawn(root, queries=HELD_OUT)} == {"cat4", "cat5"}


def test_chosen_folders_take_lists_of_queries_and_prompts(root, tmp_path):
    queries, prompts = tmp_path / "q.txt", tmp_path / "p.txt"
    trees.lines(queries, "cat0", "cat1")
    trees.lines(prompts, "cat1", "cat2", "")
    records = drawn(root, queries=str(queries))
    assert {r.query for r in records} == {"cat0", "cat1"}
    assert not {"cat0", "cat1"} & {name for r in records for name in r.prompts}
    records = drawn(root, queries=str(queries), prompts=prompts)
    assert pairs(records) == {(f"cat{i}", name) for i in (0, 1) for name in ("cat", "dog")}
    assert {r.prompts for r in records if r.query == "cat1"} == {("cat2",)}  # never itself
    assert {name for r in drawn(root, prompts=prompts) for name in r.prompts} == {"cat1", "cat2"}
    assert {r.query for r in drawn(root, prompts=prompts)} == {f"cat{i}" for i in range(6)}
    assert {r.query for r in drawn(root, 2, prompts=prompts)} == {"cat0", "cat3", "cat4", "cat5"}


def test_chosen_folders_leave_small_objects_out_of_queries_and_prompts(root):
    trees.save(root / "masks/cat0.png", box(1) + np.roll(box(2), 9, 0))  # a large dog; all others cover 16 pixels
    percent = 100 * 16 / (24 * 32)
    assert ("cat1", "dog") in pairs(drawn(root, min_object_percent=percent))
    assert {name for _, name in pairs(drawn(root, min_object_percent=percent + 0.01))} == {"cat"}
    source = ChosenFolders([root], Choice(min_object_percent=percent + 0.01))
    assert source.left_out(1)[0] == "dog: 1 queries, 0 prompts for one"


@pytest.mark.parametrize("classes", [("2",), ("dog",), ("unseen_classes",), ("dog", "2", "owl")])
def test_chosen_folders_take_classes_by_label_by_name_or_by_a_list(root, classes):
    assert {record.class_name for record in drawn(root, classes=classes)} == {"dog"}


def test_chosen_folders_take_prompts_from_the_querys_folder(root, tmp_path):
    other = zoo(tmp_path / "farm", {"names": ["background", "cow", "dog"]})
    source = ChosenFolders([root, other], Choice())
    records = source.draw_each(1)
    assert {record.class_name for record in records} == {"zoo/cat", "zoo/dog", "farm/cow", "farm/dog"}
    for record in records:
        folders = {name.partition("/")[0] for name in (record.class_name, record.query, *record.prompts)}
        assert len(folders) == 1
        mask = source.episode(record).query_mask
        assert mask.sum() == (112 if record.class_name[-3:] in ("cat", "cow") else 16)
    assert len({record.class_id for record in records}) == 4
    assert records == ChosenFolders([other, root], Choice()).draw_each(1)  # whatever the order
    assert {r.class_name for r in ChosenFolders([root, other], Choice(classes=("cow", "cat"))).draw_each(1)} == {
        "zoo/cat",
        "farm/cow",
    }


def test_chosen_folders_write_a_manifest_of_one_folder_in_its_own_words(root, tmp_path):
    source = ChosenFolders([root, zoo(tmp_path / "farm")], Choice())
    records = source.draw_each(1)
    own = source.to_manifest("zoo", records)
    assert own == [r for r in own if "/" not in r.query] and {r.class_id for r in own} == {1, 2}
    both = [source.of_manifest(name, source.to_manifest(name, records), root) for name in ("farm", "zoo")]
    assert both[0] + both[1] == records
    alone = ChosenFolders([root], Choice())
    assert alone.of_manifest("zoo", own, root) == own
    with pytest.raises(LDISError, match=r"zoo: episode 0: owl is no image that shows class 1 .cat.; freeze"):
        alone.of_manifest("zoo", [own[0].__class__(1, "cat", "owl", ("cat1",))], root)
    with pytest.raises(LDISError, match="episode 0: nobody is no image"):
        alone.of_manifest("zoo", [own[0].__class__(1, "cat", "cat0", ("nobody",))], root)


def test_chosen_folders_name_values_without_a_name_or_with_a_shared_one(root):
    (root / "classes.json").write_text(json.dumps({"names": ["background", "pet", "pet"]}))
    trees.save(root / "masks/cat5.png", box(3))  # a second owl
    assert {record.class_name for record in drawn(root)} == {"pet (1)", "pet (2)", "class 3"}
    assert {record.class_id for record in drawn(root, classes=("3",))} == {3}


def test_chosen_folders_read_masks_of_one_value_in_folders_of_classes(tmp_path):
    masks = {f"{kind}/{i}": box(255) for kind in ("ant", "bee") for i in range(2)}
    source = ChosenFolders([image_folder(tmp_path, masks)], Choice(classes=("bee",)))
    records = source.draw_each(1)
    assert {(r.query, r.class_name, r.class_id) for r in records} == {("bee/0", "bee", 2), ("bee/1", "bee", 2)}
    np.testing.assert_array_equal(source.episode(records[0]).query_mask, box(1))


def test_chosen_folders_data_hash_changes_with_masks_and_images(root):
    first = ChosenFolders([root], Choice()).data_hash
    assert ChosenFolders([root], Choice(classes=("dog",))).data_hash == first
    trees.save(root / "masks/cat5.png", box(1)[::-1].copy())
    second = ChosenFolders([root], Choice()).data_hash
    trees.save(root / "images/cat5.png", np.zeros((24, 32, 3), np.uint8))
    assert len({first, second, ChosenFolders([root], Choice()).data_hash}) == 3


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"classes": ("cow",)}, "--classes=cow: no mask of zoo shows it; they show cat, dog, owl"),
        ({"classes": ("cat", "0")}, "--classes=0: no mask of zoo shows it"),
        ({"min_object_percent": 90}, "zoo: no image with a mask that shows an object on 90 % of its pixels"),
        ({"queries": "none.txt"}, "none.txt: cannot be read"),
        ({"queries": "empty.txt"}, "empty.txt: names no image; write one name a line, such as cat0"),
        (
            {"prompts": Path("odd.txt")},
            "odd.txt: cat0.png: no image has that name; write one name a line, such as cat0",
        ),
    ],
)
def test_chosen_folders_refuse_a_choice_of_nothing_in_one_line(root, tmp_path, monkeypatch, choice, message):
    monkeypatch.chdir(tmp_path)
    trees.lines(tmp_path / "empty.txt")
    trees.lines(tmp_path / "odd.txt", "cat0.png", "cat1")
    with pytest.raises(LDISError) as error:
        ChosenFolders([root], Choice(**choice))
    assert message in str(error.value)


def test_chosen_folders_refuse_too_few_images_in_one_line(root):
    with pytest.raises(
        LDISError, match=r"zoo: 1-shot episodes need .* there are of owl: 1 queries, 0 prompts for one;"
    ):
        drawn(root, classes=("owl",))
    with pytest.raises(LDISError, match=r"6-shot episodes need a query and 6 other images of its class, and there are"):
        drawn(root, 6)


def test_chosen_folders_refuse_folders_that_cannot_be_used(root, tmp_path):
    (tmp_path / "empty/images").mkdir(parents=True)
    (tmp_path / "empty/masks").mkdir()
    with pytest.raises(LDISError, match="empty: no image with a mask that shows an object; check_data says"):
        ChosenFolders([tmp_path / "empty"], Choice())
    (tmp_path / "bare/images").mkdir(parents=True)
    with pytest.raises(LDISError, match=r"bare: needs images/ and masks/.*it has images"):
        ChosenFolders([tmp_path / "bare"], Choice())
    image_folder(tmp_path / "blank", {f"p{i}": box(0) for i in range(3)})
    with pytest.raises(LDISError, match="blank: no image with a mask that shows an object; check_data says"):
        ChosenFolders([tmp_path / "blank"], Choice())
    with pytest.raises(LDISError, match="--data: zoo: several folders of one name"):
        ChosenFolders([root, root.parent / "." / "zoo"], Choice())
    (tmp_path / "ranch").symlink_to(root)
    assert list(ChosenFolders([root, tmp_path / "ranch"], Choice()).folders) == ["ranch", "zoo"]
    with pytest.raises(
        LDISError, match="--data: farm: no mask there shows a class of --classes; leave that folder out"
    ):
        ChosenFolders([root, image_folder(tmp_path / "farm", boxes(1))], Choice(classes=("dog",)))
    (root / "images/cat0.png").write_bytes(b"broken")
    with pytest.raises(LDISError, match=r"zoo: 1 file cannot be used, such as .*cat0.png: .*evaluate take --skip_bad"):
        ChosenFolders([root], Choice())
    assert "cat0" not in {record.query for record in drawn(root, skip_bad=True)}
