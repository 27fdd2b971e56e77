import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers import SHARED

COCO_MINI = SHARED / "coco_mini"


@pytest.fixture(scope="session")
def coco_mini():
    if not COCO_MINI.is_dir():
        pytest.skip("shared data are not here")
    return COCO_MINI


@pytest.fixture
def voc_root(tmp_path):
    """Labels by image: a {1}, b {1, 2}, c {2, 255}, d {1, 3}, e nothing; c is a PNG. Pixel values name the image."""
    labels = {"a": [1], "b": [1, 2], "c": [2, 255], "d": [1, 3], "e": []}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for i, (name, present) in enumerate(labels.items()):
        image = np.full((24 + i, 40, 3), 40 * i, np.uint8)
        Image.fromarray(image).save(tmp_path / "JPEGImages" / f"{name}.{'png' if name == 'c' else 'jpg'}")
        mask = np.zeros(image.shape[:2], np.uint8)
        for j, label in enumerate(present):
            mask[:, 12 * j + 4 : 12 * j + 16] = label
        Image.fromarray(mask).save(tmp_path / "SegmentationClass" / f"{name}.png")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n\nc \nd\ne\na\n")
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["background", "cat", "dog"]}))
    return tmp_path
