import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """Ten images of two classes in VOC layout, split "val"."""
    root, rng = tmp_path_factory.mktemp("voc"), np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"picture{i}" for i in range(10)]
    for i, name in enumerate(names):
        mask = np.zeros((30, 24 + i), np.uint8)
        top, left = rng.integers(0, 10, 2)
        mask[top : top + 15, left : left + 12] = 1 + i % 2
        mask[-2:] = 255
        Image.fromarray(rng.integers(0, 256, (*mask.shape, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.png")
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    (root / "classes.json").write_text(json.dumps({"names": ["background", "cat", "dog"]}))
    return root
