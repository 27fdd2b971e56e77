"""Episodes whose query does not show what is prompted."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import (
    FrozenEpisodes,
    ImageFolder,
    ProceduralScenes,
    TrainEpisodes,
    VOCFolder,
    episode_rng,
    read_manifest,
)
from ldis_jax.input_pipeline.episodes import EpisodeRecord, episodes_hash
from ldis_jax.input_pipeline.sources import MixtureSource
from ldis_jax.support.files import write_json

# Image -> labels it shows; 0 is always there. "nothing" shows no object, "hidden" is ignored for a third.
SHOWN = {"a": (1,), "b": (1, 2), "c": (2,), "d": (1, 2, 3), "e": (3,), "nothing": (), "hidden": (1,), "all": (1, 2, 3)}


@pytest.fixture
def root(tmp_path):
    """Images in VOC's layout: label l is at row l, 255 over a third of "hidden"."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for i, (name, labels) in enumerate(SHOWN.items()):
        mask = np.zeros((12, 16), np.uint8)
        for label in labels:
            mask[2 * label : 2 * label + 2, 2:10] = label
        if name == "hidden":
            mask[8:] = 255
        Image.fromarray(mask).save(tmp_path / "SegmentationClass" / f"{name}.png")
        image = np.random.default_rng(i).integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "JPEGImages" / f"{name}.png")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("\n".join(SHOWN))
    return tmp_path


def test_draw_absent_record_takes_classes_that_the_query_does_not_show(root):
    source, seen = VOCFolder(root, "train"), set()
    for i in range(300):
        record = source.draw_absent_record(episode_rng(0, i), 2)
        assert record.absent and record.class_id not in SHOWN[record.query]
        assert all(record.class_id in SHOWN[name] for name in record.prompts) and len(set(record.prompts)) == 2
        seen.add((record.query, record.class_id))
    wanted = {(name, label) for name, shown in SHOWN.items() for label in {1, 2, 3} - {*shown} if name != "hidden"}
    assert seen == wanted, "every class that is not there, and no query whose mask tells too little"
    episode = source.draw_absent(episode_rng(0, 1), 2)
    assert not episode.query_mask.any() and all((mask == 1).any() for mask in episode.prompt_masks)


def test_draw_absent_record_asks_for_chosen_classes_and_others_may_be_shown(root):
    source = VOCFolder(root, "train", (3,))
    records = [source.draw_absent_record(episode_rng(0, i), 1) for i in range(60)]
    assert {record.class_id for record in records} == {3}
    assert {record.query for record in records} == {"a", "b", "c", "nothing"}


def test_train_episodes_mix_in_absent_objects_by_seed_and_index(root):
    source = VOCFolder(root, "train")

    def episodes(absent):
        return TrainEpisodes(source, 1, 16, seed=3, length=200, augment=False, absent=absent)

    shown = [bool((episodes(0.3)[i]["query_mask"] == 1).any()) for i in range(200)]
    assert 0.55 < np.mean(shown) < 0.85
    for i in (7, 3):
        for key, value in episodes(0.3)[i].items():
            np.testing.assert_array_equal(value, episodes(0.3)[i][key])
    plain, other = episodes(0.0), TrainEpisodes(source, 1, 16, seed=3, length=200, augment=False)
    np.testing.assert_array_equal(plain[5]["query_image"], other[5]["query_image"])


def test_frozen_episodes_survive_their_manifest(root, tmp_path):
    source = VOCFolder(root, "train")
    frozen = FrozenEpisodes.of_draws(source, 40, 1, absent=0.5)
    absent = [record for record in frozen.records if record.absent]
    assert 10 < len(absent) < 30
    write_json(tmp_path / "manifest.json", [record.to_json() for record in frozen.records])
    again = FrozenEpisodes.of_records(source, read_manifest(tmp_path / "manifest.json"))
    assert again.hash == frozen.hash and again.records == frozen.records
    entries = json.loads((tmp_path / "manifest.json").read_text())
    assert all(("absent" in entry) == record.absent for entry, record in zip(entries, frozen.records, strict=True))


def test_episodes_hash_of_present_objects_is_what_it_was():
    record = EpisodeRecord(1, "cat", "a", ("b",))
    assert episodes_hash([record]) == "8327c1ffec396d60"
    assert episodes_hash([dataclasses.replace(record, absent=True)]) != "8327c1ffec396d60"


def test_voc_folder_refuses_a_record_that_calls_absent_what_is_shown(root):
    with pytest.raises(LDISError, match=r"has pixels of class 1"):
        VOCFolder(root, "train").episode(EpisodeRecord(1, "class 1", "a", ("b",), absent=True))


def test_train_episodes_refuse_absence_where_masks_leave_classes_out(root):
    (root / "classes.json").write_text(json.dumps({"names": ["background", "x", "y", "z"], "unseen_classes": [3]}))
    with pytest.raises(
        LDISError, match=r"cannot tell what an image does not show: .*classes\.json lists unseen_classes"
    ):
        TrainEpisodes(VOCFolder(root, "train"), 1, 16, 0, 4, absent=0.5)


def test_check_absent_refuses_images_that_show_everything(root):
    (root / "ImageSets/Segmentation/full.txt").write_text("d\nall\n")
    with pytest.raises(LDISError, match=r"full\.txt: every image that may be a query shows all of the classes"):
        VOCFolder(root, "full").check_absent(1)


def test_check_absent_refuses_folders_of_a_class_each(tmp_path):
    for kind in ("images", "masks"):
        for name in ("cat", "dog"):
            (tmp_path / kind / name).mkdir(parents=True)
            for i in range(4):
                array = np.zeros((8, 8), np.uint8)
                array[2:5, 2:5] = 255
                picture = array if kind == "masks" else np.full((8, 8, 3), 20 * i, np.uint8)
                Image.fromarray(picture).save(tmp_path / kind / name / f"{i}.png")
    with pytest.raises(LDISError, match="lies in the folder of one class"):
        ImageFolder(tmp_path, "train").check_absent(1)


def test_mixture_source_draws_absent_objects_from_sources_that_can(root):
    (root / "ImageSets/Segmentation/full.txt").write_text("d\nall\n")
    cannot, can = VOCFolder(root, "full"), ProceduralScenes("train", 16)
    mixture = MixtureSource([cannot, can], [1.0, 1.0])
    assert not any((mixture.draw_absent(episode_rng(0, i), 1).query_mask == 1).any() for i in range(5))
    with pytest.raises(LDISError, match=r"full\.txt: every image"):
        MixtureSource([cannot, cannot], [1.0, 1.0]).check_absent(1)
