"""Images and names of a folder, as data sets and users keep them."""

import pytest

from ldis_jax.datasets.lists import find_class_names, find_image, image_stems


def test_image_stems_come_by_their_numbers_without_hidden_files(tmp_path):
    for name in (
        "frame10.png",
        "frame2.JPG",
        "frame1.avif",
        "frame1.png",
        "._frame2.JPG",
        "notes.txt",
        "a3b10.gif",
        "a3b9.jp2",
    ):
        (tmp_path / name).touch()
    assert image_stems(tmp_path) == ["a3b9", "a3b10", "frame1", "frame2", "frame10"]
    assert find_image(tmp_path, "frame1").name == "frame1.png"
    assert find_image(tmp_path, "a3b10").name == "a3b10.gif"
    assert find_image(tmp_path, "nothing").name == "nothing.jpg"
    with pytest.raises(FileNotFoundError):
        image_stems(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        ("masks/a.png", "classes.json"),
        ("SegmentationClass/a.png", "classes.json"),
        ("masks/train/a.png", "classes.json"),
        ("Masks/train/a.png", "Masks/train/classes.json"),
        ("masks/train/a.png", "masks/classes.json"),
        ("labels/a.png", "classes.json"),
    ],
)
def test_find_class_names_looks_beside_a_label_map_or_its_folder(tmp_path, mask, names):
    (tmp_path / mask).parent.mkdir(parents=True)
    (tmp_path / names).touch()
    assert find_class_names(tmp_path / mask) == find_class_names(str(tmp_path / mask)) == tmp_path / names


def test_find_class_names_does_not_look_higher(tmp_path):
    (tmp_path / "classes.json").touch()
    assert not find_class_names(tmp_path / "set" / "labels" / "a.png").exists()
