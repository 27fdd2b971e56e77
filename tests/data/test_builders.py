"""Every builder on its fake tree, recounted from the source by other means than the builder's."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ldis_jax.datasets.index import ImageIndex
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import RecordSource
from tests.data import trees
from tests.data.conftest import DATA
from tests.helpers import images_of


def read(folder, split):
    return list(tfds.builder_from_directory(str(folder)).as_data_source(split))


def grey(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def counts(labels):
    values, n = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), n.tolist(), strict=True))


def index_rows(folder):
    """[(name, video, frame, (height, width), {label: pixels})]"""
    index = ImageIndex.load(folder / "index.npz")
    rows = []
    for i, name in enumerate(index.names):
        entry = slice(index.offsets[i], index.offsets[i + 1])
        found = dict(zip(index.labels[entry].tolist(), index.pixels[entry].tolist(), strict=True))
        video = index.video_names[index.videos[i]].decode() if index.has_videos else ""
        size = (int(index.heights[i]), int(index.widths[i]))
        rows.append((name.decode(), video, int(index.frames[i]), size, found))
    return rows


def check(folder, split, expected, labels_of=lambda record, mask: mask):
    """``expected``: [(name, image path, mask path, video, frame)]."""
    records, rows = read(folder, split), index_rows(folder)
    assert [r[0] for r in rows] == [e[0] for e in expected] and len(records) == len(expected)
    for record, row, (name, image, mask, video, frame) in zip(records, rows, expected, strict=True):
        assert record["image"] == image.read_bytes() and record["mask"] == mask.read_bytes()
        assert (record["name"].decode(), record["video"].decode(), record["frame"]) == (name, video, frame)
        labels = labels_of(record, np.asarray(Image.open(mask)))
        assert row == (name, video, frame, labels.shape[:2], counts(labels))


def test_pascal(tree, build):
    root = tree("pascal")
    names = [f"2007_{i:06}" for i in range(6)]
    masks = [
        root / ("SegmentationClass" if i == 2 else "SegmentationClassAug") / f"{n}.png" for i, n in enumerate(names)
    ]
    images = [root / "JPEGImages" / f"{n}.{'png' if i == 4 else 'jpg'}" for i, n in enumerate(names)]
    everything = [(*triple, "", 0) for triple in zip(names, images, masks, strict=True)]
    folder, summary, builder = build("pascal", root, "train_aug")
    check(folder, "train_aug", everything[:4])
    check(build("pascal", root, "val")[0], "val", everything[4:])
    assert summary["class_names"][15] == "person" and len(summary["class_names"]) == 21
    assert summary["classes"]["255"]["name"] == "ignore" and summary["videos"] == 0 and summary["bad"] == []
    assert summary["classes"]["15"] == {
        "name": "person",
        "images": 2,
        "pixels": counts(grey(masks[1].read_bytes()))[15] + counts(grey(masks[2].read_bytes()))[15],
    }
    assert [b.split for b in type(builder).of_splits(root, root.parent)] == ["train_aug", "val"]
    assert any("one image only" in w and "bicycle" in w for w in builder.warnings)


def test_folder(tree, build):
    root = tree("folder")
    expected = [(n, root / f"images/{n}.jpg", root / f"masks/{n}.png", "", 0) for n in ("a b", "c.d", "e", "f")]
    folder, summary, builder = build("folder", root, "full")
    check(folder, "full", expected)
    assert summary["class_names"] == ["background", "cat", "dog"]
    assert [b.split for b in type(builder).of_splits(root, root.parent)] == ["full"]
    trees.lines(root / "train.txt", "f", "a b")
    assert [b.split for b in type(builder).of_splits(root, root.parent)] == ["train"]
    check(build("folder", root, "train")[0], "train", [expected[3], expected[0]])


def davis_frames(root, sequences):
    names = [f"{s}/{i:05}" for s in sequences for i in range(3)]
    places = [(root / f"JPEGImages/480p/{n}.jpg", root / f"Annotations/480p/{n}.png") for n in names]
    return [(n, *p, n.split("/")[0], int(n[-5:])) for n, p in zip(names, places, strict=True)]


def test_davis16(tree, build):
    root = tree("davis16")

    def labels(record, mask):
        assert record["object_label"] == 1
        return (mask if mask.ndim == 2 else mask[..., 0]) // 255

    folder, summary, _ = build("davis16", root, "train")
    check(folder, "train", davis_frames(root, ("bear", "dog-agility")), labels)
    check(build("davis16", root, "val")[0], "val", davis_frames(root, ("dog-agility",)), labels)
    assert summary["mask_rule"] == "nonzero" and summary["videos"] == 2 and summary["classes"]["1"]["images"] == 5


@pytest.mark.parametrize("layout", ["own", "public code's"])
def test_vspw(tree, build, layout):
    root = tree("vspw")
    places = ("data/{}/origin", "data/{}/mask")
    if layout != "own":
        for video in ("0_clip", "1_clip", "2_clip"):
            for old, new in (("origin", "images"), ("mask", "masks")):
                (root / new).mkdir(exist_ok=True)
                (root / "data" / video / old).rename(root / new / video)
            (root / "data" / video).rmdir()
        (root / "data").rmdir()
        places = ("images/{}", "masks/{}")
    expected = []
    for video in ("2_clip", "0_clip"):
        for i in range(4):
            image, mask = (root / p.format(video) / f"{8 * i:08}" for p in places)
            expected.append((f"{video}/{8 * i:08}", image.with_suffix(".jpg"), mask.with_suffix(".png"), video, 8 * i))
    folder, summary, _ = build("vspw", root, "train")
    check(folder, "train", expected)
    names = summary["class_names"]
    assert (names[1], names[7], names[124], names[2], len(names)) == ("wall", "door", "toilet", "class 2", 125)


def test_fss1000(tree, build):
    root = tree("fss1000")
    label = {"ab_wheel": 1, "abacus": 2, "zucchini": 3}

    def expected(*classes):
        return [
            (f"{c}/{i}", root / c / f"{i}.jpg", root / c / f"{i}.png", "", 0) for c in classes for i in range(1, 11)
        ]

    def labels(record, mask):
        assert record["object_label"] == label[record["name"].decode().split("/")[0]]
        return np.where(mask[..., 0] > 127, record["object_label"], 0)

    folder, summary, _ = build("fss1000", root, "train")
    check(folder, "train", expected("zucchini", "ab_wheel"), labels)
    check(build("fss1000", root, "test")[0], "test", expected("abacus"), labels)
    assert summary["class_names"] == ["background", "ab_wheel", "abacus", "zucchini"]
    assert images_of(RecordSource(folder.parents[1], "train")).keys() == {1, 3}


def test_fss1000_has_labels_beyond_255_and_never_255(tree, build):
    root = tree("fss1000")
    for i in range(300):
        trees.save(root / f"class{i:03}" / "1.png", np.zeros((2, 2), np.uint8))
    folder, summary, _ = build("fss1000", root, "train")
    source = RecordSource(folder.parents[1], "train")
    last = len(summary["class_names"]) - 1
    assert summary["class_names"][255] == "(unused)" and last == 304 and images_of(source).keys() == {1, last}
    episode = source.draw(np.random.default_rng(0), 2)
    assert set(np.unique(episode.query_mask)) == {0, 1} and episode.class_name in ("zucchini", "ab_wheel")


def test_coco20i(tree, build):
    root = tree("coco20i")
    folder, summary, _ = build("coco20i", root, "val")
    records = read(folder, "val")
    assert [r["name"].decode() for r in records] == [f"COCO_val2014_{i:012}" for i in (10, 11, 13)]  # 12 shows nothing
    assert summary["class_names"] == ["background", "thing 1", "thing 13", "thing 90"]
    for record, row in zip(records, index_rows(folder), strict=True):
        assert record["image"] == (root / "val2014" / f"{row[0]}.jpg").read_bytes()
        assert row[4] == counts(grey(record["mask"])) and row[3] == grey(record["mask"]).shape
    first, second, third = (grey(r["mask"]) for r in records)
    expected = np.zeros_like(first)
    expected[2:12, 2:12], expected[4:8, 4:8] = 1, 3
    np.testing.assert_array_equal(first, expected)
    expected = np.zeros_like(second)
    expected[5:9], expected[:7, :6] = 255, 2
    np.testing.assert_array_equal(second, expected)
    expected = np.zeros_like(third)
    expected[1:5, 1:5] = expected[8:13, 8:13] = 2
    np.testing.assert_array_equal(third, expected)


@pytest.mark.parametrize("change", ["segmentation", "no area", "categories", "not JSON"])
def test_coco20i_refuses_broken_annotations(tree, build, change):
    root = tree("coco20i")
    path = root / "annotations/instances_val2014.json"
    text = path.read_text()
    path.write_text(
        {
            "segmentation": text.replace('"segmentation": [[', '"segmentation": [["x", ', 1),
            "no area": text.replace('"area"', '"aera"', 1),
            "categories": text.replace('"categories"', '"kinds"'),
            "not JSON": text[:-9],
        }[change]
    )
    with pytest.raises(LDISError, match=r"instances_val2014\.json: ") as info:
        build("coco20i", root, "val")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", [*trees.ALL])
def test_builder_workers_change_nothing(tree, build, name):
    split = {"folder": "full", "coco20i": "train", "pascal": "train_aug"}.get(name, "train")
    root, results = tree(name), []
    for num_workers in (0, 1, 3):
        folder, summary, _ = build(name, root, split, out=f"out{num_workers}", num_workers=num_workers)
        results.append((read(folder, split), (folder / "index.npz").read_bytes(), summary))
    assert results[0] == results[1] == results[2]


def test_builder_keeps_bytes_to_the_last_zero(tree, build):
    root = tree("folder")
    path = root / "images/e.jpg"
    path.write_bytes(path.read_bytes() + b"\0\0\0")
    assert read(build("folder", root, "full")[0], "full")[2]["image"] == path.read_bytes()


@pytest.mark.parametrize("name", ["list.txt", "list.npy"])
def test_pascal_takes_metas_of_the_public_code_as_lists(tree, build, name):
    root = tree("pascal")
    (root / "ImageSets/Segmentation/train_aug.txt").unlink()
    names = ["2007_000001", "2007_000003"]
    (root / "metas").mkdir()
    if name == "list.txt":
        trees.lines(root / "metas/train_aug.txt", *names)
    else:
        pair = np.array([[("a", "b")], {1: [f"{names[1]}.jpg"], 2: [f"{n}.jpg" for n in names]}], dtype=object)
        np.save(root / "metas/meta_train_aug.npy", pair, allow_pickle=True)
    assert [r["name"].decode() for r in read(build("pascal", root, "train_aug")[0], "train_aug")] == names


def test_builder_and_record_source_never_import_an_installed_tensorflow(tree, tmp_path):
    root = tree("folder")
    (tmp_path / "site/tensorflow").mkdir(parents=True)
    (tmp_path / "site/tensorflow/__init__.py").write_text("raise RuntimeError('TensorFlow was imported')")
    script = f"""
import sys
sys.path[:0] = [{str(DATA)!r}, {str(tmp_path / "site")!r}]
from folder.folder_dataset_builder import Builder
folder = Builder({str(root)!r}, "full", {str(tmp_path / "tf")!r}).build()
from ldis_jax.input_pipeline import RecordSource, episode_rng
RecordSource(folder.parents[1], "full").draw(episode_rng(0, 0), 1)
assert not [m for m in sys.modules if m.split(".")[0] == "tensorflow"], "imported"
print("done")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "done\n", result.stderr
