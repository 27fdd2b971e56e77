import collections
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import EpisodeRecord, TrainEpisodes, VOCFolder, episode_rng, read_manifest
from ldis_jax.input_pipeline.episodes import EpisodeSource
from tests.helpers import classes_of, images_of


def records(folder, n, num_shots=1):
    return [folder.draw_record(episode_rng(0, i), num_shots) for i in range(n)]


def test_voc_folder_indexes_images_by_class(voc_root):
    folder = VOCFolder(voc_root, "train")
    assert images_of(folder) == {1: ["a", "b", "d"], 2: ["b", "c"], 3: ["d"]}
    assert classes_of(folder) == {"a": [1], "b": [1, 2], "c": [2], "d": [1, 3]}
    assert folder.num_images == 4  # e shows nothing, the second a is the first


def test_voc_folder_draws_evenly_over_queries_then_over_their_classes(voc_root):
    drawn = collections.Counter((r.query, r.class_id) for r in records(VOCFolder(voc_root, "train"), 2000))
    # Class 3 has one image only, so d is a query of class 1 alone.
    expected = {("a", 1): 0.25, ("b", 1): 0.125, ("b", 2): 0.125, ("c", 2): 0.25, ("d", 1): 0.25}
    assert drawn.keys() == expected.keys()
    for key, p in expected.items():
        assert abs(drawn[key] / 2000 - p) < 0.04


@pytest.mark.parametrize("num_shots", [1, 2])
def test_voc_folder_prompts_are_other_images_of_the_class_without_repeats(voc_root, num_shots):
    folder, seen = VOCFolder(voc_root, "train"), set()
    for record in records(folder, 300, num_shots):
        assert len(set(record.prompts) - {record.query}) == num_shots
        assert set(record.prompts) <= set(images_of(folder)[record.class_id])
        seen.update(record.prompts)
    assert seen == ({"a", "b", "c", "d"} if num_shots == 1 else {"a", "b", "d"})


def test_voc_folder_episode_holds_the_images_and_masks_of_its_record(voc_root):
    episode = VOCFolder(voc_root, "train").episode(EpisodeRecord(2, "dog", "c", ("b",)))
    assert (episode.class_id, episode.class_name, episode.name, episode.is_video) == (2, "dog", "c", False)
    assert (episode.query_image == 80).all() and episode.query_image.shape == (26, 40, 3)
    labels = np.zeros(40, np.uint8)
    labels[4:16], labels[16:28] = 1, 255
    np.testing.assert_array_equal(episode.query_mask[0], labels)
    labels = np.zeros(40, np.uint8)
    labels[16:28] = 1  # class 1 of the same image is background
    np.testing.assert_array_equal(episode.prompt_masks[0][0], labels)


def test_voc_folder_takes_class_names_from_classes_json(voc_root):
    drawn = {r.class_id: r.class_name for r in records(VOCFolder(voc_root, "train"), 50)}
    assert drawn == {1: "cat", 2: "dog"}
    (voc_root / "classes.json").unlink()
    assert records(VOCFolder(voc_root, "train", [1]), 1)[0].class_name == "class 1"


def test_voc_folder_keeps_to_the_chosen_classes(voc_root):
    folder = VOCFolder(voc_root, "train", classes=range(2, 4))
    assert folder.num_images == 3 and {r.class_id for r in records(folder, 30)} == {2}


def test_voc_folder_draws_reproducibly_and_survives_pickling(voc_root):
    folder: EpisodeSource = VOCFolder(voc_root, "train")
    clone = pickle.loads(pickle.dumps(folder))
    for i in range(5):
        a, b = (f.draw(episode_rng(3, i), 1) for f in (folder, clone))
        assert a.name == b.name
        np.testing.assert_array_equal(a.prompt_images[0], b.prompt_images[0])


@pytest.mark.parametrize(
    ("classes", "num_shots", "match"),
    [
        (None, 3, r"3-shot episodes need 4 images of a class, the most frequent \(cat\) has 3"),
        ([3], 1, r"the most frequent \(class 3\) has 1"),
    ],
)
def test_voc_folder_refuses_too_few_images(voc_root, classes, num_shots, match):
    with pytest.raises(LDISError, match=match):
        VOCFolder(voc_root, "train", classes).draw(episode_rng(0, 0), num_shots)


def test_voc_folder_refuses_a_class_that_no_mask_shows(voc_root):
    with pytest.raises(LDISError, match=r"train\.txt: none of its 5 masks shows a class of \[9\]"):
        VOCFolder(voc_root, "train", [9])


def _break(voc_root, what):
    image, mask = voc_root / "JPEGImages/a.jpg", voc_root / "SegmentationClass/a.png"
    if what == "no image":
        image.unlink()
    elif what == "no mask":
        mask.unlink()
    elif what == "corrupt mask":
        mask.write_bytes(mask.read_bytes()[:50])
    elif what == "colour mask":
        Image.new("RGB", (40, 24)).save(mask)
    elif what == "no split":
        (voc_root / "ImageSets/Segmentation/train.txt").unlink()
    elif what == "empty split":
        (voc_root / "ImageSets/Segmentation/train.txt").write_text("\n")
    elif what == "names":
        (voc_root / "classes.json").write_text(json.dumps(["cat"]))


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("no image", r"JPEGImages/a\.jpg: no such file, nor \.png"),
        ("no mask", r"SegmentationClass/a\.png: no such file"),
        ("corrupt mask", r"SegmentationClass/a\.png: (damaged|not an) image"),
        ("colour mask", r"SegmentationClass/a\.png: pixels of mode RGB are no label map"),
        ("no split", r"train\.txt: cannot be read"),
        ("empty split", r"train\.txt: none of its 0 masks"),
        ("names", r"classes\.json, \{.*: cannot be read"),
    ],
)
def test_voc_folder_refuses_broken_folders(voc_root, what, match):
    _break(voc_root, what)
    with pytest.raises(LDISError, match=match) as info:
        VOCFolder(voc_root, "train")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (EpisodeRecord(2, "dog", "a", ("b",)), r"train\.txt: mask a: no pixel of class 2"),
        (EpisodeRecord(1, "cat", "a", ("zz",)), r"JPEGImages/zz\.jpg: no such file"),
        (EpisodeRecord(1, "cat", "d", ("a",)), r"d\.png: mask is 40x27, its image .*d\.jpg is 40x20"),
        (EpisodeRecord(1, "cat", "b", ("a",)), r"b\.jpg: (damaged|not an) image"),
    ],
)
def test_voc_folder_refuses_broken_episodes(voc_root, record, match):
    folder = VOCFolder(voc_root, "train")
    Image.new("RGB", (40, 20)).save(voc_root / "JPEGImages/d.jpg")
    (voc_root / "JPEGImages/b.jpg").write_bytes((voc_root / "JPEGImages/b.jpg").read_bytes()[:-150])
    with pytest.raises(LDISError, match=match):
        folder.episode(record)


def test_voc_folder_reads_coco_mini(coco_mini):
    folder = VOCFolder(coco_mini, "val")
    stats = collections.Counter(c for classes in classes_of(folder).values() for c in classes)
    assert folder.num_images <= 134 and stats == {c: len(n) for c, n in images_of(folder).items()}
    manifest = read_manifest(coco_mini / "episodes" / "val_1shot.json")
    for record in manifest[::40]:
        episode = folder.episode(record)
        assert episode.class_name == folder.class_names[record.class_id]
        assert (episode.query_mask == 1).mean() >= 0.01  # as its README says
    arrays = TrainEpisodes(VOCFolder(coco_mini, "train"), 2, 64, seed=0, length=3)[2]
    assert arrays["prompt_images"].shape == (2, 64, 64, 3) and arrays["query_image"].std() > 0.1
