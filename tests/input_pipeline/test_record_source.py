import json
import logging
import pickle
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import (
    EpisodeRecord,
    FrozenEpisodes,
    RecordSource,
    TrainEpisodes,
    TrainLoader,
    VOCFolder,
    episode_rng,
    make_source,
)
from ldis_jax.input_pipeline.episodes import BadFileError
from ldis_jax.recipes.data import record_source
from tests.data import trees
from tests.helpers import DATA, classes_of

sys.path.append(str(DATA))


@pytest.fixture
def built(voc_root, tmp_path):
    """OUT/NAME of the records of ``voc_root``, whose lists name an image twice."""
    from folder.folder_dataset_builder import Builder

    trees.lines(voc_root / "ImageSets/Segmentation/train.txt", *"abcde")
    Builder(voc_root, "train", tmp_path / "out").build()
    return tmp_path / "out" / "folder"


@pytest.fixture
def videos(tmp_path):
    """Two videos of three and two frames; class 1 in all, class 2 in single frames of both."""
    from vspw.vspw_dataset_builder import Builder

    root = tmp_path / "vspw"
    for video, labels in (("u", ([1, 2], [1], [1])), ("v", ([1], [1, 2]))):
        for i, present in enumerate(labels):
            image, mask = trees.paint(i, present)
            trees.save(root / f"data/{video}/origin/{i}.jpg", image)
            trees.save(root / f"data/{video}/mask/{i}.png", mask)
    trees.lines(root / "train.txt", "u", "v")
    Builder(root, "train", tmp_path / "out").build()
    return tmp_path / "out" / "vspw"


def assert_equal(a, b):
    assert (a.class_id, a.class_name, a.name, a.is_video) == (b.class_id, b.class_name, b.name, b.is_video)
    for x, y in zip(
        (a.query_image, a.query_mask, *a.prompt_images, *a.prompt_masks),
        (b.query_image, b.query_mask, *b.prompt_images, *b.prompt_masks),
        strict=True,
    ):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("classes", [None, [1], range(2, 4)])
def test_record_source_draws_the_same_episodes_as_the_folder(voc_root, built, classes):
    folder, records = VOCFolder(voc_root, "train", classes), RecordSource(built, "train", classes)
    assert records.num_images == folder.num_images and classes_of(records) == classes_of(folder)
    for i in range(60):
        assert_equal(records.draw(episode_rng(7, i), 1), folder.draw(episode_rng(7, i), 1))


def test_record_source_gives_the_episodes_of_a_manifest(voc_root, built):
    record = EpisodeRecord(2, "dog", "c", ("b",))
    records = RecordSource(built, "train")
    assert_equal(records.episode(record), VOCFolder(voc_root, "train").episode(record))
    frozen = FrozenEpisodes.of_draws(records, 9, 1)
    assert frozen.hash == FrozenEpisodes.of_draws(VOCFolder(voc_root, "train"), 9, 1).hash
    for bad, match in (
        (EpisodeRecord(2, "dog", "zz", ("b",)), "holds no image 'zz'"),
        (EpisodeRecord(2, "dog", "", ("b",)), "holds no image ''"),
        (EpisodeRecord(3, "x", "a", ("b",)), "mask a: no pixel of class 3"),
    ):
        with pytest.raises(BadFileError, match=match):
            records.episode(bad)


def test_record_source_refuses_missing_splits_and_classes(built):
    with pytest.raises(
        LDISError, match=r"val/1\.0\.0 \(build the records with data/build\.py\): cannot be read \(No such"
    ):
        RecordSource(built, "val")
    with pytest.raises(LDISError, match=r"none of its 5 masks shows a class of \[9\]"):
        RecordSource(built, "train", [9])


def test_record_source_survives_pickling(built):
    source = RecordSource(built, "train")
    source.draw(episode_rng(0, 0), 1)  # files are open now
    assert_equal(pickle.loads(pickle.dumps(source)).draw(episode_rng(0, 1), 1), source.draw(episode_rng(0, 1), 1))


def test_record_source_is_opened_by_one_thread_for_all(built, monkeypatch):
    """TFDS may be imported then, and two threads that import it can stop for ever."""
    open_folder, opened = tfds.builder_from_directory, []

    def slow(folder):
        opened.append(folder)
        time.sleep(0.1)
        return open_folder(folder)

    monkeypatch.setattr(tfds, "builder_from_directory", slow)
    source = RecordSource(built, "train")
    threads = [threading.Thread(target=source.draw, args=(episode_rng(0, i), 1)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


@pytest.mark.parametrize("which", ["built", "videos"])
def test_train_loader_gives_the_same_records_with_workers(which, request):
    config = record_source(str(request.getfixturevalue(which)), "train")
    episodes = TrainEpisodes(make_source({"set": config}, 16), 1, 16, seed=2, length=24)
    with TrainLoader(episodes, 4) as loader:
        threads = list(loader)
    with TrainLoader(episodes, 4, num_workers=2) as loader:
        workers = list(loader)
    assert len(threads) == len(workers) == 6
    for a, b in zip(threads, workers, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_record_source_takes_prompts_from_the_querys_video(videos):
    source = RecordSource(videos, "train")
    drawn = [source.draw_record(episode_rng(0, i), 1) for i in range(200)]
    assert {r.query for r in drawn} == {"u/0", "u/1", "u/2", "v/0", "v/1"}
    assert {r.class_id for r in drawn} == {1}  # class 2 has one frame a video, though two in all
    assert all(p[0] == r.query[0] and p != r.query for r in drawn for p in r.prompts)
    assert source.draw(episode_rng(0, 0), 1).is_video
    assert {source.draw_record(episode_rng(0, i), 2).query[0] for i in range(50)} == {"u"}
    with pytest.raises(LDISError, match=r"need 4 frames of a class in one video, the most frequent \(class 1\) has 3"):
        source.draw(episode_rng(0, 0), 3)


def test_train_episodes_go_on_after_a_bad_file(voc_root, caplog):
    episodes = TrainEpisodes(VOCFolder(voc_root, "train"), 1, 16, seed=3, length=40)
    (voc_root / "JPEGImages/b.jpg").write_bytes(b"gone bad")
    with caplog.at_level(logging.WARNING):
        first = [episodes[i] for i in range(40)]
    met = {record.getMessage() for record in caplog.records}
    assert len(caplog.records) == 1 and "JPEGImages/b.jpg: not an image" in met.pop()
    assert sum(episodes.bad_files.values()) > 5 and len(episodes.bad_files) == 1
    assert sum(int(arrays["bad_files"]) for arrays in first) == sum(episodes.bad_files.values())
    again = TrainEpisodes(VOCFolder(voc_root, "train"), 1, 16, seed=3, length=40)
    for i in (39, 7, 20):  # a function of (seed, index), whatever was drawn before
        for key in first[i]:
            np.testing.assert_array_equal(again[i][key], first[i][key])


def test_train_episodes_end_at_too_many_bad_files(voc_root):
    episodes = TrainEpisodes(VOCFolder(voc_root, "train"), 1, 16, seed=3, length=4)
    for name in "abd":
        (voc_root / f"JPEGImages/{name}.jpg").unlink()
    with pytest.raises(LDISError, match=r"episode 1: 100 draws .*no such file.*mend bad files"):
        episodes[1]
    assert sum(episodes.bad_files.values()) == 100


def test_record_source_reports_damaged_records_as_bad_files(built):
    path = next(built.rglob("*array_record*"))
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8\xff") + 30
    data[start : start + 400] = bytes(400)
    path.write_bytes(data)
    source = RecordSource(built, "train")
    with pytest.raises(BadFileError):
        for i in range(50):
            source.draw(episode_rng(0, i), 1)


@pytest.mark.parametrize("spoil", ["import", "field"])
def test_record_source_refuses_features_that_we_do_not_write(built, spoil, capsys):
    """TFDS would import what they name."""
    path = built / "train" / "1.0.0" / "features.json"
    features = json.loads(path.read_text())
    if spoil == "import":
        features["featuresDict"]["features"]["image"]["pythonClassName"] = "this.Zen"
    else:
        del features["featuresDict"]["features"]["image"]
    path.write_text(json.dumps(features))
    sys.modules.pop("this", None)
    with pytest.raises(LDISError, match=r"build the records again|this\.Zen: not of data/build\.py"):
        RecordSource(built, "train").draw(episode_rng(0, 0), 1)
    assert "this" not in sys.modules
