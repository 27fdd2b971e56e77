"""The small real sets, where they are."""

import json

import numpy as np
import pytest
from PIL import Image

from ldis_jax.datasets.folder_check import check_folder
from ldis_jax.datasets.index import ImageIndex
from ldis_jax.input_pipeline import RecordSource, TrainEpisodes, VOCFolder, episode_rng
from tests.helpers import images_of


@pytest.mark.parametrize("split", ["train", "val"])
def test_record_source_draws_coco_mini_as_voc_folder_does(shared, build, split):
    root = shared("coco_mini")
    folder, summary, _ = build("folder", root, split)
    records, plain = RecordSource(folder.parents[1], split), VOCFolder(root, split)
    assert (records.num_images, images_of(records)) == (plain.num_images, images_of(plain))
    for i in range(300):
        assert records.draw_record(episode_rng(1, i), 3) == plain.draw_record(episode_rng(1, i), 3)
    for i in range(5):
        a, b = records.draw(episode_rng(1, i), 2), plain.draw(episode_rng(1, i), 2)
        np.testing.assert_array_equal(a.query_image, b.query_image)
        np.testing.assert_array_equal(a.prompt_masks[1], b.prompt_masks[1])
    assert summary["images"] == {"train": 195, "val": 134}[split] and summary["class_names"] == plain.class_names


def test_check_folder_holds_out_the_val_list_of_coco_mini(shared):
    checked, plain = check_folder(shared("coco_mini")), VOCFolder(shared("coco_mini"), "val")
    assert len(checked.index) == 329 and checked.held_out.sum() == 134 and checked.problems == ()
    held_out = {name: counts["held_out"] for name, counts in checked.classes().items() if counts["held_out"]}
    assert held_out == {plain.class_names[label]: len(names) for label, names in images_of(plain).items()}


def test_davis16_agrees_with_the_facts_of_the_real_set(shared, build):
    root = shared("davis")
    folder, summary, _ = build("davis16", root, "val", num_workers=2)
    index = ImageIndex.load(folder / "index.npz")
    facts = json.loads((root / "sequences.json").read_text())
    assert summary["images"] == 300 and sorted(index.video_names.tolist()) == [n.encode() for n in sorted(facts)]
    areas = np.where(index.labels == 1, index.pixels, 0)
    shares = np.add.reduceat(areas, index.offsets[:-1]) / (index.heights * index.widths)
    for row, name in enumerate(index.video_names):
        found = shares[index.videos == row]
        fact = facts[name.decode()]
        assert len(found) == fact["frames"] and abs(found.mean() - fact["fg_fraction_mean"]) < 1e-4
    source = RecordSource(folder.parents[1], "val")
    for i in range(50):
        record = source.draw_record(episode_rng(0, i), 5)
        assert {name.split("/")[0] for name in record.prompts} == {record.query.split("/")[0]}
    assert TrainEpisodes(source, 1, 64, 0, 3)[2]["prompt_masks"].shape == (1, 64, 64)


def test_vspw_indexes_the_labels_of_camvid(shared, build):
    root = shared("camvid_vspw")
    folder, summary, _ = build("vspw", root, "val")
    assert (summary["images"], summary["videos"]) == (101, 1)
    index, found = ImageIndex.load(folder / "index.npz"), {}
    for path in sorted((root / "data/0006R0/mask").glob("*.png")):
        values, n = np.unique(np.asarray(Image.open(path)), return_counts=True)
        found[f"0006R0/{path.stem}"] = (values.tolist(), n.tolist())
    for i, name in enumerate(index.names):
        entry = slice(index.offsets[i], index.offsets[i + 1])
        assert found[name.decode()] == (index.labels[entry].tolist(), index.pixels[entry].tolist())
    assert index.frames[1] == 960 and len(index) == len(found)


def test_instances_render_the_masks_of_coco_mini(shared, tmp_path):
    """coco_mini's masks were painted at the original size and scaled down by nearest: ours agree in every pixel."""
    pytest.importorskip("pycocotools")
    from coco20i.render import Instances

    root = shared("coco_mini")
    coco = json.loads((root / "instances.json").read_text())
    labels = {c["id"]: i for i, c in enumerate(sorted(coco["categories"], key=lambda c: c["id"]), 1)}
    by_image: dict[int, list] = {}
    for annotation in coco["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append((labels[annotation["category_id"]], annotation))
    crowds = 0
    for image in coco["images"]:
        instances = tuple(by_image.get(image["id"], ()))
        ours = Instances(image["file_name"], image["height"], image["width"], instances).labels()
        theirs = Image.open(root / "SegmentationClass" / image["file_name"].replace(".jpg", ".png"))
        np.testing.assert_array_equal(Image.fromarray(ours).resize(theirs.size, Image.Resampling.NEAREST), theirs)
        crowds += 255 in ours
    assert crowds > 5
