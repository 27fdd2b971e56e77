import cv2
import numpy as np
import pytest

from ldis_jax.datasets.folder_check import check_folder
from ldis_jax.datasets.object_size import object_widths, suggested_tile
from tests.data.test_folder_check import image_folder


def strip(width):
    mask = np.zeros((200, 400), np.uint8)
    mask[50 : 50 + width, 20:380] = 1
    return mask


def folder(root, *masks):
    return check_folder(image_folder(root, {f"p{i}": mask for i, mask in enumerate(masks)}))


def test_object_widths_of_strips_and_discs(tmp_path):
    disc = cv2.circle(np.zeros((200, 400), np.uint8), (200, 100), 60, 2, -1)
    widths = object_widths(folder(tmp_path, strip(20), strip(20), strip(40), disc, disc))
    assert widths == {1: pytest.approx(20 / 400, rel=0.1), 2: pytest.approx(0.67 * 120 / 400, rel=0.1)}


def test_object_widths_end_at_the_border_of_the_image_and_leave_out_what_is_ignored(tmp_path):
    mask = strip(20)
    mask[100:150] = 255
    root = image_folder(tmp_path, {f"p{i}": mask for i in range(3)})
    (root / "classes.json").write_text('{"names": ["background", "strip"]}')
    assert object_widths(check_folder(root)) == {1: pytest.approx(20 / 400, rel=0.1)}
    filled = folder(tmp_path / "filled", *[np.full((100, 400), 7, np.uint8)] * 3)
    assert object_widths(filled) == {1: pytest.approx(0.25, rel=0.15)}  # short for a strip


def test_suggested_tile_makes_objects_wide_enough_but_does_not_enlarge_images(tmp_path):
    wide, narrow = (folder(tmp_path / str(width), *[strip(width)] * 3) for width in (60, 8))
    assert suggested_tile(wide, 64) == pytest.approx(0.4, abs=0.05)  # 0.15 of the image is 24 of 64 pixels
    assert suggested_tile(wide, 128) == 1.0
    assert suggested_tile(narrow, 128) == 0.32  # 128 of 400 pixels
    assert suggested_tile(narrow, 32) == 0.08


def test_suggested_tile_is_that_of_the_chosen_classes(tmp_path):
    both = strip(8)
    both[100:180] = 2
    checked = folder(tmp_path, both, both, both)
    few, many = suggested_tile(checked, 32, [1]), suggested_tile(checked, 32, [2])
    assert few < suggested_tile(checked, 32) < many
