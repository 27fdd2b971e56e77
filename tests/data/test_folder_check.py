"""Folders as users have them: what is found, how masks are read, what is held out, what is said of each bad file."""

import numpy as np
import pytest
from PIL import Image

from ldis_jax.datasets.folder_check import check_folder, summary
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.errors import LDISError
from ldis_jax.media.images import read_image
from tests.data import trees
from tests.data.odd_files import ORIENTATION


def image_folder(root, masks, images="images", mask_folder="masks", ending="png"):
    """A folder with an image for each mask, name -> array."""
    for i, (name, mask) in enumerate(masks.items()):
        image = np.random.default_rng(i).integers(0, 256, (*mask.shape[:2], 3), np.uint8)
        trees.save(root / images / f"{name}.{ending}", image)
        trees.save(root / mask_folder / f"{name}.png", mask)
    return root


def box(value, size=(24, 32)):
    mask = np.zeros(size, np.uint8)
    mask[4:12, 6:20] = value
    return mask


def boxes(value, count=5):
    return {f"p{i}": box(value) for i in range(count)}


@pytest.mark.parametrize("value", [1, 7, 255])
def test_check_folder_takes_masks_of_one_value_as_one_class(tmp_path, value):
    checked = check_folder(image_folder(tmp_path, boxes(value)))
    assert (checked.rule, checked.problems, checked.notes, checked.fatal) == ("nonzero", (), (), "")
    assert checked.classes() == {"object": {"label": 1, "images": 5, "held_out": 1}}


def test_check_folder_takes_masks_of_1_and_of_255_as_the_same_class(tmp_path):
    masks = boxes(255) | {"q": box(1), "r": box(1)}
    assert check_folder(image_folder(tmp_path, masks)).classes()["object"]["images"] == 7


def test_check_folder_takes_colour_masks_of_one_colour_as_one_class(tmp_path):
    red, white = (np.stack([box(value), box(other), box(other)], -1) for value, other in ((255, 0), (255, 255)))
    checked = check_folder(image_folder(tmp_path, {"a": red, "b": white, "c": box(255)}))
    assert checked.rule == "nonzero" and checked.classes()["object"]["images"] == 3
    assert checked.index.pixels.tolist() == [24 * 32 - 8 * 14, 8 * 14] * 3


def test_check_folder_cuts_soft_edges_in_the_middle(tmp_path):
    soft = box(255)
    soft[3, 6:20], soft[12, 6:20] = range(20, 188, 12), range(100, 240, 10)
    checked = check_folder(image_folder(tmp_path, dict.fromkeys("abc", soft)))
    assert checked.rule == "half" and checked.problems == ()
    assert checked.index.pixels[1] == np.count_nonzero(soft >= 128) > 8 * 14


def test_check_folder_recognises_label_maps(tmp_path):
    mask = box(1)
    mask[14:20, 2:9], mask[0] = 9, 255  # a border that is ignored, as VOC has it
    checked = check_folder(image_folder(tmp_path, dict.fromkeys("abcd", mask)))
    assert checked.rule == "labels"
    assert {name: c["label"] for name, c in checked.classes().items()} == {"class 1": 1, "class 9": 9}
    low = box(255, (40, 40))  # much that is ignored, little that is labelled, as in images of the eye
    low[5, 6:9], low[6, 6:9] = 1, 2
    assert check_folder(image_folder(tmp_path / "eyes", dict.fromkeys("abc", low))).rule == "labels"


def test_check_folder_takes_sub_folders_as_classes(tmp_path):
    masks = {f"{kind}/{i}": box(255) for kind in ("dog", "cat") for i in range(3)} | {"loose": box(255)}
    checked = check_folder(image_folder(tmp_path, masks))
    pictures = {name: (c["label"], c["images"]) for name, c in checked.classes().items()}
    assert pictures == {"object": (1, 1), "cat": (2, 3), "dog": (3, 3)}
    assert checked.object_labels["dog/0"] == 3


def test_check_folder_takes_train_valid_and_test_sub_folders_as_splits(tmp_path):
    masks = {f"{part}/{i}": box(255) for part in ("train", "valid", "test") for i in range(2)}
    checked = check_folder(image_folder(tmp_path, masks))
    assert list(checked.pairs) == ["train/0", "train/1", "valid/0", "valid/1"]
    assert checked.held_out.tolist() == [False, False, True, True] and checked.layout.val
    assert list(checked.classes()) == ["object"]


def test_check_folder_reads_voc_with_and_without_lists(tmp_path):
    root = image_folder(tmp_path, boxes(3, 6), "JPEGImages", "SegmentationClass")
    checked = check_folder(root)
    assert checked.rule == "labels" and len(checked.index) == 6 and checked.held_out.sum() == 1
    trees.lines(root / "ImageSets/Segmentation/train.txt", "p0", "p1")
    assert [len(check_folder(root).index), check_folder(root).layout.val] == [2, None]
    trees.lines(root / "ImageSets/Segmentation/val.txt", "p5")
    checked = check_folder(root)
    assert list(checked.pairs) == ["p0", "p1", "p5"] and checked.held_out.tolist() == [False, False, True]


def test_check_folder_ignores_what_systems_leave_and_the_case_of_endings(tmp_path):
    root = image_folder(tmp_path, boxes(1, 3), "Images", "Masks", ending="JPG")
    for junk in (".DS_Store", "Thumbs.db", "._p0.png", "desktop.ini", "__MACOSX/p0.png"):
        (root / "Images" / junk).parent.mkdir(exist_ok=True)
        (root / "Images" / junk).write_bytes(b"junk")
    checked = check_folder(root)
    assert len(checked.index) == 3 and checked.problems == checked.notes == ()
    (root / "Images" / "p9.HEIC").write_bytes(b"a telephone's")
    (note,) = check_folder(root).notes
    assert str(note) == f"{root / 'Images' / 'p9.HEIC'}: not read: .HEIC is no image format that PIL opens"


def test_check_folder_fits_a_turned_image_to_its_upright_mask(tmp_path):
    root, exif = image_folder(tmp_path, boxes(1, 3)), Image.Exif()
    exif[ORIENTATION] = 6
    for ending in ("jpg", "png"):
        (root / "images/p0.png").unlink(missing_ok=True)
        (root / "images/p0.jpg").unlink(missing_ok=True)
        Image.new("RGB", (24, 32)).save(root / f"images/p0.{ending}", exif=exif)
        assert check_folder(root).problems == (), ending


def _spoil(root, what):
    image, mask = root / "images/p0.png", root / "masks/p0.png"
    if what == "no mask":
        mask.unlink()
    elif what == "no image":
        image.unlink()
    elif what == "case":
        mask.rename(root / "masks/P0.png")
    elif what == "suffix":
        mask.rename(root / "masks/p0_mask.png")
    elif what == "size":
        trees.save(mask, box(1, (24, 31)))
    elif what == "cut off":
        trees.save(root / "images/p0.jpg", np.zeros((24, 32, 3), np.uint8))
        image.unlink()
        data = (root / "images/p0.jpg").read_bytes()
        (root / "images/p0.jpg").write_bytes(data[: len(data) - 40])
    elif what == "not an image":
        image.write_text("hello")
    elif what == "colours":
        trees.save(mask, np.stack([box(255), box(0), np.rot90(box(255), 2)], -1))
    elif what == "kind":
        Image.fromarray(box(255)).convert("CMYK").save(root / "masks/p0.tif")
        mask.unlink()
    elif what == "twice":
        trees.save(root / "images/p0.bmp", np.zeros((24, 32, 3), np.uint8))
    elif what == "not in folder":
        trees.lines(root / "train.txt", "p0", "p1", "p2", "p3", "gone")
    elif what == "in both lists":
        trees.lines(root / "train.txt", "p0", "p1", "p2")
        trees.lines(root / "val.txt", "p0", "p4")
    elif what == "val alone":
        trees.lines(root / "val.txt", "p0")


@pytest.mark.parametrize(
    ("what", "file", "text"),
    [
        ("no mask", "images/p0.png", "no mask masks/p0.*"),
        ("no image", "masks/p0.png", "no image images/p0.*"),
        ("case", "masks/P0.png", "if ROOT/images/p0.png is meant, give both one name"),
        ("suffix", "images/p0.png", "if ROOT/masks/p0_mask.png is meant, give both one name"),
        (
            "size",
            "masks/p0.png",
            "mask is 31x24, its image ROOT/images/p0.png is 32x24 (EXIF rotation applied); make them agree",
        ),
        ("cut off", "images/p0.jpg", "damaged image"),
        ("not an image", "images/p0.png", "not an image that is read here"),
        ("colours", "masks/p0.png", "2 colours beside black; paint the object in one colour on black"),
        ("kind", "masks/p0.tif", "pixels of mode CMYK are no mask"),
        ("twice", "images/p0.png", "has the name of p0.bmp; take one of them away"),
        ("not in folder", "gone", "in a list, but in neither images/ nor masks/"),
        ("in both lists", "images/p0.png", "in train.txt and in val.txt"),
        ("val alone", ".", "has a val.txt but no train.txt"),
    ],
)
def test_check_folder_names_a_bad_file_and_the_rest_is_usable(tmp_path, what, file, text):
    root = image_folder(tmp_path, boxes(255, 6))
    _spoil(root, what)
    checked = check_folder(root)
    text = text.replace("ROOT", str(root))
    name = file if what == "not in folder" else str(root / file)
    (problem,) = [p for p in checked.problems if p.file == name]
    assert text in problem.text and "\n" not in str(problem)
    assert checked.fatal == "" or what == "in both lists"
    with pytest.raises(LDISError, match=r"files? cannot be used, such as .*skip_bad") as info:
        checked.require_usable(skip_bad=False)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("what", ["a JPEG", "a palette that begins with white", "a cut-out"])
def test_check_folder_reads_masks_by_what_they_show(tmp_path, what):
    root = image_folder(tmp_path, boxes(255, 6))
    path, shown = root / "masks/p0.png", Image.fromarray(box(255))
    if what == "a JPEG":
        path.unlink()
        path = path.with_suffix(".jpg")
    elif what == "a cut-out":
        shown = Image.fromarray(np.dstack([read_image(root / "images/p0.png"), box(255)]))
    else:
        shown = Image.fromarray(1 - box(1), "P")
        shown.putpalette([255, 255, 255, 0, 0, 0])
    shown.save(path)
    checked = check_folder(root)
    assert checked.problems == () and checked.rule == "nonzero"
    said = {"a JPEG": "a JPEG; values from 128 on are the object", "a cut-out": "the mask is its alpha channel"}
    assert [note.text for note in checked.notes] == ([said[what]] if what in said else [])
    labels = read_pair(root / "images/p0.png", path, checked.rule, 3)[1]
    assert (labels == 3 * (box(255) > 0)).all() or (what == "a JPEG" and (labels != 3 * (box(255) > 0)).sum() < 9)
    # Beside label maps they are none.
    trees.save(root / "masks/p1.png", box(1) + 2 * np.rot90(box(1), 2))
    files = {problem.file: problem.text for problem in check_folder(root).problems}
    assert files[str(path)].startswith(
        {"a JPEG": "a JPEG, which invents", "a cut-out": "pixels of mode RGBA"}.get(what, "its palette does not begin")
    )


def test_check_folder_refuses_colour_label_maps(tmp_path):
    mask = box(1)
    mask[14:20, 2:9] = 2
    masks = dict.fromkeys("abc", mask) | {"d": np.stack([mask] * 3, -1)}
    (problem,) = check_folder(image_folder(tmp_path, masks)).problems
    assert problem.file.endswith("d.png") and "pixels of mode RGB are no label map" in problem.text


def test_check_folder_notes_masks_without_object_and_classes_of_one_image(tmp_path):
    masks = {"a": box(1), "b": box(1), "c": box(1), "d": box(0), "e": box(2), "f": box(255)}
    checked = check_folder(image_folder(tmp_path, masks))
    notes = [str(note) for note in checked.notes]
    assert [note.partition(": ")[0][-5:] for note in notes] == ["d.png", "f.png", "ss 2'"]
    assert "no object; the image" in notes[0] and "255 is ignored; the image" in notes[1]
    assert "in one image only" in notes[2] and checked.problems == ()
    full = check_folder(image_folder(tmp_path / "full", {"a": np.full((9, 9), 255, np.uint8), "b": box(255)}))
    assert "all of it is object" in full.notes[0].text


@pytest.mark.parametrize(
    ("masks", "match"),
    [
        ({}, "no image with a mask that shows an object"),
        ({"a": box(0), "b": box(0)}, "no image with a mask that shows an object"),
        (boxes(1, 1), r"needs 2 images to train on, the most frequent \(object\) has 1"),
        (boxes(1, 2), r"needs 2 to train on and one more, the most frequent \(object\) has 2"),
    ],
)
def test_check_folder_require_usable_refuses_too_few_images(tmp_path, masks, match):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    with pytest.raises(LDISError, match=match):
        check_folder(image_folder(tmp_path, masks)).require_usable(skip_bad=True)


def test_check_folder_holds_out_a_share_by_name_and_every_class_keeps_two(tmp_path):
    mask = box(1)
    both = mask.copy()
    both[14:20, 2:9] = 2
    masks = {f"n{i:02}": both if i < 2 else mask for i in range(20)}
    checked = check_folder(image_folder(tmp_path, masks))
    held_out = summary(checked)["held_out"]
    assert len(held_out) == 4 and not {"n00", "n01"} & set(held_out)
    (tmp_path / "images/n19.png").unlink()
    (tmp_path / "masks/n19.png").unlink()
    fewer = summary(check_folder(tmp_path))["held_out"]
    assert len(set(held_out) - {"n19"} - set(fewer)) <= 1  # an image more or less hardly moves the others


def test_check_folder_refuses_a_folder_without_a_layout(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(LDISError, match=r"needs images/ and masks/, or VOC's .* it has pictures"):
        check_folder(tmp_path)
    with pytest.raises(LDISError, match="no such folder"):
        check_folder(tmp_path / "none")
