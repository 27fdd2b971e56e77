"""Bytes are decoded as the files that they are the bytes of."""

import numpy as np
import pytest
from PIL import Image

from ldis_jax.datasets.pairs import read_pair
from ldis_jax.errors import LDISError
from ldis_jax.media.images import read_image
from ldis_jax.media.masks import read_label_map, read_mask


def test_read_image_read_label_map_and_read_mask_take_bytes_as_a_path(tmp_path):
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    rgb.save(tmp_path / "turned.jpg", exif=exif)
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(rng.integers(0, 65536, (6, 9), np.uint16)).save(tmp_path / "deep.png")
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_image(path.read_bytes()), read_image(path))
    assert read_image((tmp_path / "turned.jpg").read_bytes()).shape == (9, 6, 3)
    data = (tmp_path / "palette.png").read_bytes()
    np.testing.assert_array_equal(read_label_map(data), read_label_map(tmp_path / "palette.png"))
    rgb.convert("L").save(tmp_path / "grey.png")
    grey = (tmp_path / "grey.png").read_bytes()
    np.testing.assert_array_equal(read_mask(grey), read_mask(tmp_path / "grey.png"))


def test_read_image_read_label_map_and_read_mask_call_bytes_by_their_name():
    for read in (read_image, read_label_map, read_mask):
        with pytest.raises(LDISError, match=r"^shelf 3: not an image"):
            read(b"nothing", name="shelf 3")


def test_read_pair_reads_masks_by_each_rule(tmp_path):
    Image.new("RGB", (4, 1)).save(tmp_path / "i.png")
    Image.fromarray(np.array([[0, 1, 127, 128]], np.uint8)).save(tmp_path / "m.png")
    labels = {r: read_pair(tmp_path / "i.png", tmp_path / "m.png", r, 700)[1] for r in ("labels", "nonzero", "half")}
    assert labels["labels"].tolist() == [[0, 1, 127, 128]]
    assert labels["nonzero"].tolist() == [[0, 700, 700, 700]]
    assert labels["half"].tolist() == [[0, 0, 0, 700]]
