"""What masks mean is judged by their content: as people have them, made here and, where they are there, from files."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.media.images import write_png
from ldis_jax.media.masks import (
    labels_to_choose,
    mask_values,
    object_mask,
    read_first_labels,
    read_label_map,
    read_mask,
)
from tests.helpers import SHARED

CASES = SHARED.parent / "cases"
VALUES = np.array([[0, 1, 7], [254, 255, 0]], np.uint8)
# A disk of 300 pixels or so in a square of 40: what every mask below means, unless it says another thing.
Y, X = np.mgrid[:40, :40]
DISK = (Y - 20) ** 2 + (X - 18) ** 2 < 100
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


def raises(function, *args, match):
    with pytest.raises(LDISError, match=match) as info:
        function(*args)
    assert "\n" not in str(info.value)


def grey(*values):
    """The disk in the second of two values, or of three with a ring around it in the last."""
    ring = cv2.dilate(DISK.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    array = np.where(DISK, values[1], values[0])
    return (np.where(ring & ~DISK, values[2], array) if len(values) > 2 else array).astype(np.uint8)


def blurred():
    return cv2.GaussianBlur(grey(0, 255), (9, 9), 2)


def antialiased():
    large = 255 * np.kron(DISK, np.ones((4, 4)))[2:, 2:]
    return cv2.resize(large, (40, 40), interpolation=cv2.INTER_AREA).astype(np.uint8)


def palette(indices, *colours):
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return image


def coded(array, **options):
    """An array after a lossy or lossless file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, **options)
    return np.asarray(Image.open(file))


def said(source, **options):
    """(mask, what was said of it)."""
    lines = []
    return read_mask(source, say=lines.append, **options), " ".join(lines)


@pytest.mark.parametrize("dtype", [np.uint8, bool])
@pytest.mark.parametrize("channels", [(), (1,)])
def test_read_mask_reads_any_two_values_of_an_array(dtype, channels):
    for value in (1, 7, 128, 255):
        mask, line = said(grey(0, value).astype(dtype).reshape(40, 40, *channels))
        assert mask.dtype == np.uint8 and line == ""
        np.testing.assert_array_equal(mask, DISK)
    assert read_mask(np.ones((3, 3), bool)).all(), "who says so in so many words may prompt with all of an image"


def test_read_mask_reads_two_values_of_every_mode():
    bits, deep = Image.fromarray(DISK), Image.fromarray(DISK.astype(np.uint16) << 15)
    rgb, rgba = Image.fromarray(np.repeat(grey(0, 200)[..., None], 3, -1)), bits.convert("RGBA")
    colour = Image.fromarray(np.where(DISK[..., None], np.uint8([200, 30, 0]), np.uint8(0)))
    for image in (bits, deep, bits.convert("L"), bits.convert("LA"), rgb, rgba, colour):
        mask, line = said(image)
        assert line == "", image.mode
        np.testing.assert_array_equal(mask, DISK, err_msg=image.mode)


def test_read_mask_ignores_255_beside_a_label_and_says_so():
    for source in (grey(0, 7, 255), palette(grey(0, 1, 2), (0, 0, 0), (128, 0, 0), (224, 224, 192)).convert("RGB")):
        mask, line = said(source)
        assert line == "mask: 255 is ignored"
        np.testing.assert_array_equal(mask, grey(0, 1, 255))
    mask, line = said(grey(0, 7, 255), ignore_label=255)
    assert line == "", "as was asked for"
    np.testing.assert_array_equal(mask, grey(0, 1, 255))
    np.testing.assert_array_equal(said(grey(0, 255, 7), ignore_label=7)[0], grey(0, 1, 255))


@pytest.mark.parametrize(
    "array",
    [
        blurred(),
        blurred() // 64 * 64 + 31,  # of four greys, none of them 0
        antialiased(),
        np.where(cv2.erode(DISK.astype(np.uint8), np.ones((2, 2))) != DISK, 128, grey(0, 255)).astype(np.uint8),
        grey(16, 235),
        coded(grey(0, 255), format="JPEG", quality=60),
        coded(np.repeat(grey(0, 255)[..., None], 3, -1), format="JPEG", quality=75),
        coded(np.repeat(grey(0, 255)[..., None], 3, -1), format="WEBP", quality=40),
    ],
)
def test_read_mask_cuts_soft_lossy_and_quantized_masks_at_their_half(array):
    mask, line = said(array)
    assert line == "mask: soft or noisy edges; values from 128 on are the object"
    assert (mask != DISK).sum() < 0.1 * DISK.sum()
    np.testing.assert_array_equal(mask, (array if array.ndim == 2 else array.max(-1)) >= 128)


def test_read_mask_cuts_soft_edges_of_16_bits_and_of_a_colour():
    mask, line = said(Image.fromarray(blurred().astype(np.uint16) * 257))
    assert "from 32768 on" in line
    np.testing.assert_array_equal(mask, blurred() >= 128)
    red = blurred()[..., None] * np.float32([1, 0.2, 0])
    np.testing.assert_array_equal(said(red.astype(np.uint8))[0], blurred() >= 128)


def test_read_mask_cuts_a_jpeg_at_its_half_even_where_no_edge_shows(tmp_path):
    Image.fromarray(grey(0, 255)).save(tmp_path / "m.jpg", quality=60)
    for source in (tmp_path / "m.jpg", (tmp_path / "m.jpg").read_bytes()):
        mask, line = said(source, ignore_label=255)
        assert "from 128 on" in line and (mask != DISK).sum() < 20


@pytest.mark.parametrize("first", ["white", "black"])
def test_read_mask_and_object_mask_read_a_palette_by_what_it_shows(tmp_path, first):
    colours = [(255, 255, 255), (0, 0, 0)] if first == "white" else [(0, 0, 0), (255, 255, 255)]
    palette((first == "white") != DISK, *colours).save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png"), DISK)
    np.testing.assert_array_equal(object_mask(tmp_path / "p.png", soft=False), DISK)


def test_mask_values_of_a_palette_of_black_and_colours_are_labels():
    voc = palette(grey(0, 15, 255), (0, 0, 0), *[(i, 255 - i, 128) for i in range(1, 255)], (224, 224, 192))
    np.testing.assert_array_equal(mask_values(voc).values, grey(0, 15, 255))
    np.testing.assert_array_equal(read_mask(voc, 255), grey(0, 1, 255))
    np.testing.assert_array_equal(read_first_labels(voc), grey(0, 15, 255))
    white = palette(DISK, (255, 255, 255), (0, 0, 0))
    np.testing.assert_array_equal(mask_values(white, by_index=True).values, DISK)


def test_read_mask_of_a_cut_out_is_its_alpha():
    cut_out = np.dstack([PICTURE, blurred()])
    for source in (cut_out, Image.fromarray(cut_out), Image.fromarray(cut_out[..., [0, 3]], "LA")):
        mask, line = said(source)
        assert "the mask is its alpha channel" in line and "from 128 on" in line
        np.testing.assert_array_equal(mask, blurred() >= 128)
    drawn = np.dstack([np.full_like(PICTURE, 9), grey(0, 255)])
    mask, line = said(drawn)
    assert line == ""
    np.testing.assert_array_equal(mask, DISK)
    opaque = np.dstack([np.repeat(grey(0, 255)[..., None], 3, -1), np.full((40, 40), 200, np.uint8)])
    np.testing.assert_array_equal(said(opaque)[0], DISK)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (grey(1, 2, 3), "mask: labels 1, 2, 3; choose one: MASK@1 on the command line, label=1 in Python"),
        (grey(0, 1, 2), "mask: labels 1, 2; "),
        (grey(1, 255), "mask: no background; "),
        (np.full((4, 4), 255, np.uint8), "mask: no background; "),
        (PICTURE, r"mask: 1\d\d\d colours beside black; a mask shows one object"),
        (cv2.applyColorMap(grey(0, 255), cv2.COLORMAP_VIRIDIS), "mask: 2 colours beside black"),
        (VALUES.astype(np.int32), "mask array: int32 of shape .*; pass .* bool or uint8"),
        (VALUES.astype(float), "float64"),
        (Image.new("CMYK", (2, 2)), "pixels of mode CMYK are no mask"),
    ],
)
def test_read_mask_refuses_what_cannot_be_meant(array, match):
    raises(read_mask, array, match=match)


def test_read_mask_does_not_take_labels_side_by_side_for_a_ramp():
    array = np.zeros((40, 40), np.uint8)
    for i, value in enumerate((1, 90, 130, 220)):
        array[4:36, 8 * i + 4 : 8 * i + 12] = value
    raises(read_mask, array, match="labels 1, 90, 130, 220")
    np.testing.assert_array_equal(read_first_labels(array), array)


def test_read_first_labels_takes_masks_and_label_maps():
    lines = []
    for source, expected, line in (
        (grey(0, 255), DISK, ""),
        (grey(0, 9), grey(0, 9), ""),
        (grey(0, 2, 255), grey(0, 2, 255), ""),
        (Image.fromarray(grey(0, 2, 255)), grey(0, 2, 255), "first_frame_labels: 255 is ignored"),
        (blurred(), blurred() >= 128, "first_frame_labels: soft or noisy edges; values from 128 on are the object"),
        (Image.fromarray(grey(0, 255)).convert("RGB"), DISK, ""),
        (DISK, DISK, ""),
        (grey(0, 3).astype(np.int64), grey(0, 3), ""),
    ):
        lines.clear()
        np.testing.assert_array_equal(read_first_labels(source, say=lines.append), expected)
        assert "".join(lines) == line
    raises(read_first_labels, PICTURE, match=r"first_frame_labels uint8\[40, 40, 3\]: must be integers")
    raises(read_first_labels, np.arange(600).reshape(20, 30), match="must be integers .*, 0 to 255")
    raises(read_first_labels, Image.fromarray(PICTURE), match="colours beside black; save label values")


@pytest.mark.skipif(not CASES.is_dir(), reason="no cases")
@pytest.mark.parametrize(
    "name",
    ["palette_white_first.png", "cutout_keep_rgb.png", "antialiased.png", "was_jpeg.png", "lossy.jp2", "viridis.png"],
)
def test_read_mask_reads_masks_as_people_have_them(name):
    truth = read_mask(CASES / "prompt_mask_good.png")
    if name == "viridis.png":
        raises(read_mask, CASES / name, match="colours beside black")
    else:
        mask = read_mask(CASES / name) == 1
        assert (mask & (truth == 1)).sum() / (mask | (truth == 1)).sum() > 0.97


def test_read_label_map_reads_indices(tmp_path):
    index = Image.fromarray(VALUES, "P")
    index.putpalette(list(range(256)) * 3)
    index.save(tmp_path / "p.png")
    write_png(tmp_path / "l.png", VALUES)
    for name in ("p.png", "l.png"):
        labels = read_label_map(tmp_path / name)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, VALUES)


def test_read_label_map_rejects_colour_and_16_bits(tmp_path):
    write_png(tmp_path / "rgb.png", PICTURE)
    Image.fromarray(VALUES.astype(np.uint16)).save(tmp_path / "deep.png")
    raises(
        read_label_map,
        tmp_path / "rgb.png",
        match=r"rgb\.png: pixels of mode RGB are no label map, which has one 8-bit",
    )
    raises(read_label_map, tmp_path / "deep.png", match="I;16")


@pytest.mark.parametrize("label", [1, 15, 100])
def test_read_mask_and_read_first_labels_refuse_or_read_lossy_labels(label):
    """All of them are below the half of the range, from which on soft edges are the object."""
    file = io.BytesIO()
    Image.fromarray(grey(0, label)).save(file, format="JPEG", quality=75)
    source = file.getvalue()
    try:
        assert (read_mask(source) == 1).any()
    except LDISError as error:
        assert "labels in a format that changes them" in str(error)
    try:
        assert read_first_labels(source).max() == 1
    except LDISError as error:
        assert "labels in a format that changes them" in str(error)


@pytest.mark.parametrize("value", [-1, 256, "x"])
def test_read_mask_rejects_a_bad_ignore_label(value):
    raises(read_mask, DISK, value, match=f"ignore_label={value!r}: must be an integer of at least 0 and at most 255")


LABELS = np.where(DISK, 2, np.where(X > 30, 7, 0)).astype(np.uint8)  # the disk and a strip beside it


def test_read_mask_chooses_a_label_by_its_value():
    deep = Image.fromarray(LABELS.astype(np.uint16) * 100)
    for source, label in ((LABELS, 2), (Image.fromarray(LABELS), 2), (deep, 200), (LABELS == 2, 1), (grey(0, 2), 2)):
        mask, line = said(source, label=label)
        assert mask.dtype == np.uint8 and line == ""
        np.testing.assert_array_equal(mask, DISK)
    np.testing.assert_array_equal(said(LABELS, label=7)[0], LABELS == 7)
    np.testing.assert_array_equal(said(blurred(), label=100)[0] == 1, blurred() == 100)  # no edge of a label is soft


@pytest.mark.parametrize("first", [(0, 0, 0), (255, 255, 255), (0, 0, 200)])
def test_read_mask_takes_a_palettes_index_as_the_label(first):
    image = palette(LABELS, first, *[(9 * i, 255 - i, 128) for i in range(1, 8)])
    np.testing.assert_array_equal(said(image, label=2)[0], DISK)
    raises(read_mask, image, match="mask: labels 2, 7; choose one: MASK@2 on the command line, label=2 in Python")


def test_read_mask_reads_a_palette_of_two_by_index_where_labels_have_names():
    image = palette(DISK, (255, 255, 255), (0, 0, 0))
    np.testing.assert_array_equal(read_mask(image), ~DISK)
    np.testing.assert_array_equal(read_mask(image, names=["background", "disk"]), DISK)


def test_read_mask_ignores_255_and_the_ignore_label_beside_a_chosen_label():
    ignored = np.where((X < 3)[..., None], 255, LABELS[..., None])[..., 0].astype(np.uint8)
    expected = np.where(ignored == 255, 255, ignored == 2)
    mask, line = said(ignored, label=2)
    assert line == "mask: 255 is ignored"
    np.testing.assert_array_equal(mask, expected)
    mask, line = said(ignored, label=2, ignore_label=255)
    assert line == ""
    np.testing.assert_array_equal(mask, expected)
    mask, line = said(LABELS, label=2, ignore_label=7)
    assert line == ""
    np.testing.assert_array_equal(mask, np.where(LABELS == 7, 255, LABELS == 2))


MANY = np.arange(1600, dtype=np.uint8).reshape(40, 40) // 4 * (X % 9 > 0)


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        (LABELS, {"names": ["background", "a", "cat"]}, r"mask: labels 2 \(cat\), 7; choose one: MASK@2 on the"),
        (MANY, {}, "mask: labels 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 53 more; choose one: MASK@1 "),
        (LABELS, {"label": 3}, "mask: no label 3 in it; it has 2, 7$"),
        (LABELS, {"label": 1, "names": ["", "dog", "cat"]}, r"no label 1 \(dog\) in it; it has 2 \(cat\), 7$"),
        (LABELS, {"label": 7, "ignore_label": 7}, "no label 7 in it; it has 2$"),
        (grey(0, 2, 255), {"label": 255}, "mask: no label 255 in it; it has 2$"),
        (grey(0, 255), {"label": 1}, "mask: no label 1 in it; it holds no labels: leave the label out"),
        (LABELS, {"label": 0}, "mask: label=0: must be an integer of at least 1; 0 is the background"),
        (LABELS, {"label": 2.0}, "mask: label=2.0: must be an integer"),
        (LABELS, {"label": 1 << 80}, "no label 1208925819614629174706176 in it; it has 2, 7"),
        (PICTURE, {"label": 2}, r"mask: 1\d\d\d colours beside black; save label values"),
    ],
)
def test_read_mask_refuses_labels_that_cannot_be_chosen(source, options, match):
    with pytest.raises(LDISError, match=match) as info:
        read_mask(source, **options)
    assert "\n" not in str(info.value) and len(str(info.value)) < 200


def test_read_mask_and_labels_to_choose_find_no_labels_in_a_jpeg():
    file = io.BytesIO()
    Image.fromarray(100 * (LABELS > 0).astype(np.uint8)).save(file, format="JPEG", quality=60)
    raises(lambda: read_mask(file.getvalue(), label=100), match="labels in a format that changes them; save label")
    raises(read_mask, file.getvalue(), match="labels in a format that changes them; save label")
    assert labels_to_choose(file.getvalue()) is None


def test_labels_to_choose_are_offered_by_masks_of_several_labels_only():
    for source in (LABELS, Image.fromarray(LABELS), palette(LABELS, *[(255 - i, i, 9) for i in range(8)])):
        np.testing.assert_array_equal(labels_to_choose(source), LABELS)
    for source in (DISK, grey(0, 2), grey(0, 2, 255), blurred(), PICTURE, Image.fromarray(DISK)):
        assert labels_to_choose(source) is None
