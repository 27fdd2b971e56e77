import contextlib
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.media.images import list_images, read_image, write_png
from ldis_jax.media.masks import read_label_map, read_mask
from ldis_jax.support.files import atomic_write, write_json

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]


def raises(function, *args, match):
    with pytest.raises(LDISError, match=match) as info:
        function(*args)
    assert "\n" not in str(info.value)


def test_read_image_takes_an_array_a_pil_image_or_a_path(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for source in (RGB, Image.fromarray(RGB), tmp_path / "a.png", str(tmp_path / "a.png")):
        image = read_image(source)
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        np.testing.assert_array_equal(image, RGB)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_read_image_repeats_a_grey_array_in_three_channels(shape):
    np.testing.assert_array_equal(read_image(GREY.reshape(shape)), np.stack([GREY] * 3, -1))


def test_read_image_drops_alpha_without_blending():
    rgba = np.dstack([RGB, np.zeros_like(GREY)])
    np.testing.assert_array_equal(read_image(rgba), RGB)
    np.testing.assert_array_equal(read_image(Image.fromarray(rgba)), RGB)
    np.testing.assert_array_equal(read_image(Image.fromarray(rgba[..., [0, 3]], "LA"))[..., 2], GREY)


def test_read_image_shows_the_colours_of_a_palette():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(read_image(image), expected)


def test_read_image_reads_a_cmyk_jpeg(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    cmyk.save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg")[8, 8], [255, 0, 0], atol=3)


def test_read_image_keeps_the_high_byte_of_16_bit_grey_and_colour(tmp_path):
    deep = np.random.default_rng(1).integers(0, 65536, (5, 7, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "grey.png"), deep[..., 0])
    cv2.imwrite(str(tmp_path / "rgb.png"), deep[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([deep[..., 0] // 256] * 3, -1))
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.png"), deep // 256)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a.swapaxes(0, 1), 2)),
        (8, np.rot90),
    ],
)
def test_read_image_and_read_mask_turn_alike_by_exif(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(GREY % 2).save(tmp_path / "m.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright(RGB))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), upright(GREY % 2))


def test_read_image_refuses_missing_damaged_and_foreign_files(tmp_path):
    raises(read_image, tmp_path / "none.png", match=r"none\.png: no such file")
    raises(read_image, tmp_path, match="is a folder")
    raises(read_image, None, match="image array: NoneType; pass")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    for name in ("empty.jpg", "text.jpg"):
        raises(read_image, tmp_path / name, match=rf"{name}: not an image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix in ("jpg", "png", "bmp", "webp", "gif", "tif"):
        whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
        Image.fromarray(noise).save(whole)
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        raises(read_image, cut, match=rf"cut\.{suffix}: (damaged|not an) image")
        raises(read_mask, cut, match=rf"cut\.{suffix}: (damaged|not an) image")


def test_read_image_refuses_a_damaged_pil_image(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-60])
    with Image.open(tmp_path / "cut.png") as lazy:
        raises(read_image, lazy, match="PIL image: damaged")


def test_read_image_refuses_a_decompression_bomb(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    raises(read_image, tmp_path / "a.png", match=r"a\.png: too large")


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (RGB.astype(np.float32), "image array: float32"),
        (GREY > 3, "image array: bool"),
        (RGB[None], r"image array: uint8 of shape \(1, 5, 7, 3\)"),
        (RGB[..., :2], r"image array: uint8 of shape \(5, 7, 2\)"),
        (RGB[:0], r"image array: uint8 of shape \(0, 7, 3\)"),
    ],
)
def test_read_image_refuses_bad_arrays(array, match):
    raises(read_image, array, match=match)


def test_read_image_rejects_32_bit_images():
    raises(
        read_image,
        Image.fromarray(np.zeros((2, 2), np.float32)),
        match="pixels of mode F are no image: they have no fixed range",
    )


def test_write_png_round_trip_and_bool(tmp_path):
    write_png(tmp_path / "new" / "a.png", RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), RGB)
    write_png(tmp_path / "b.png", GREY > 100)
    np.testing.assert_array_equal(read_label_map(tmp_path / "b.png"), (GREY > 100) * 255)


def test_atomic_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_write_json_reports_an_unwritable_place(tmp_path):
    (tmp_path / "file").touch()
    raises(write_json, tmp_path / "file" / "a.json", {}, match=r"a\.json: cannot be written")
    (tmp_path / "folder").mkdir()
    raises(write_json, tmp_path / "folder", {}, match="folder: cannot be written")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_write_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"miou": 12.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"miou": 12.5}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"miou": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"miou": 12.5}


def test_read_image_scales_12_bits_in_16_to_their_range(tmp_path, caplog):
    for bits in (8, 10, 12, 14):
        deep = np.random.default_rng(1).integers(0, 1 << bits, (50, 7), np.uint16)
        cv2.imwrite(str(tmp_path / "grey.png"), deep)
        caplog.clear()
        np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([deep >> (bits - 8)] * 3, -1))
        assert caplog.messages == [f"{tmp_path}/grey.png: {bits} bits in 16; scaled to their range"]
    cv2.imwrite(str(tmp_path / "colours.png"), np.stack([deep] * 3, -1))
    caplog.clear()
    read_image(tmp_path / "colours.png")
    assert caplog.messages == [f"{tmp_path}/colours.png: fewer bits in 16, nearly black; save it with 8 bits"]
    (tmp_path / "grey.pgm").write_bytes(b"P5 7 50 16383\n" + deep.astype(">u2").tobytes())
    assert np.abs(read_image(tmp_path / "grey.pgm")[..., 0].astype(int) - (deep >> 6)).max() <= 1


def test_read_image_does_not_take_broken_exif_for_damage(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.webp", lossless=True, exif=b"Exif\0\0MM\0*nonsense")
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), RGB)


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        b"BLP2\1\0\0\0" + bytes(range(200)) * 9,
        b"\0\0\0\x1cftypavif" + bytes(300),
        b"SIMPLE  =                    T" + b" " * 3000,
    ],
)
def test_read_image_refuses_formats_that_are_not_read(tmp_path, content, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("started another program"))
    (tmp_path / "a.png").write_bytes(content)
    raises(read_image, tmp_path / "a.png", match=r"a\.png: (damaged|not an) image")
    with contextlib.suppress(Exception), Image.open(tmp_path / "a.png") as image:
        raises(read_image, image, match="PIL image: (damaged|not an) image")


def test_list_images_says_which_images_of_a_folder_are_not_read(tmp_path):
    for name in ("2.JPG", "10.png", "3.HEIC", "notes.txt", "._1.heic"):
        (tmp_path / name).touch()
    said = []
    assert [path.name for path in list_images(tmp_path, said.append)] == ["2.JPG", "10.png"]
    assert said == [f"{tmp_path}: files such as 3.HEIC (1) are passed over; convert them to PNG or JPEG"]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_read_image_turns_a_tiff_upright(tmp_path, mode, orientation):
    image = Image.fromarray(GREY).convert("L" if mode == "I;16" else mode).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.tif", exif=exif)
    image.save(tmp_path / "upright.png")
    expected = np.rot90(read_image(tmp_path / "upright.png"), {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(read_image(tmp_path / "turned.tif"), expected)
    np.testing.assert_array_equal(read_image((tmp_path / "turned.tif").read_bytes()), expected)
