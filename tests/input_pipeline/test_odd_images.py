"""Files as people have them, the whole way to the network's arrays: from a folder, and from records of the same folder.

Each tree is read by both sources, whose arrays must be the same; ``data/build.py`` itself makes the records.
"""

import importlib.util
import io
import logging
import re
import struct
import sys

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import (
    EpisodeRecord,
    RecordSource,
    TrainEpisodes,
    VOCFolder,
    eval_transform,
    network_arrays,
)
from ldis_jax.input_pipeline.episodes import BadFileError
from ldis_jax.media.images import read_image
from tests.data import trees
from tests.data.odd_files import ORIENTATION, encode, png, scene, turned
from tests.helpers import DATA, call_command, classes_of

sys.path.append(str(DATA))
_SPEC = importlib.util.spec_from_file_location("build_command", DATA / "build.py")
command = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(command)

SIZE = 32


class Tree:
    """A folder in VOC's layout, its split "train", and records made of it."""

    def __init__(self, root, run):
        self.root, self._run = root, run

    def add(self, name, image, mask, suffix="png"):
        """Files from their bytes."""
        for path, data in ((self.image(name, suffix), image), (self.mask(name), mask)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        names = [path.stem for path in sorted((self.root / "SegmentationClass").iterdir())]
        trees.lines(self.root / "ImageSets/Segmentation/train.txt", *names)

    def image(self, name, suffix="jpg"):
        return self.root / f"JPEGImages/{name}.{suffix}"

    def mask(self, name):
        return self.root / f"SegmentationClass/{name}.png"

    def build(self, *flags):
        """(exit status, standard output, standard error) of data/build.py."""
        return self._run("folder", f"--source={self.root}", f"--out={self.root}/out", "--num_workers=0", *flags)

    def records(self):
        return RecordSource(self.root / "out/folder", "train")

    def sources(self):
        status, _, error = self.build()
        assert status == 0, error
        return VOCFolder(self.root, "train"), self.records()


@pytest.fixture
def tree(tmp_path, monkeypatch, capsys):
    return Tree(tmp_path / "tree", lambda *arguments: call_command(command.main, monkeypatch, capsys, *arguments))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def same_training(sources, episodes=8, **options):
    """The arrays of training episodes, which are those of all ``sources``, sound, and never without a prompt."""
    ours = [TrainEpisodes(source, 1, SIZE, seed=4, length=episodes, **options) for source in sources]
    drawn = []
    for i in range(episodes):
        arrays, *others = (data[i] for data in ours)
        for other in others:
            assert_same(arrays, other)
        assert (arrays["prompt_masks"] == 1).any(axis=(1, 2)).all()
        assert np.abs(arrays["query_image"]).max() <= 1 and np.abs(arrays["prompt_images"]).max() <= 1
        drawn.append(arrays)
    assert len({tuple(data.bad_files.values()) for data in ours}) == 1
    return drawn


def assert_both_read(tree, image, mask, atol=0):
    """Image "odd" of the tree is this, in frozen and in training episodes; ``atol`` in grey levels."""
    tree.add("plain", *map(encode, scene(40, 33)))
    sources = tree.sources()
    record = EpisodeRecord(1, "class 1", "odd", ("plain",))
    folder, records = (source.episode(record) for source in sources)
    assert folder.query_image.dtype == folder.query_mask.dtype == np.uint8
    np.testing.assert_allclose(folder.query_image.astype(int), image.astype(int), atol=atol)
    np.testing.assert_array_equal(folder.query_mask, np.where(mask == 2, 0, mask))
    arrays = network_arrays(folder, SIZE)
    assert_same(arrays, network_arrays(records, SIZE))
    expected, labels = eval_transform(image, np.where(mask == 2, 0, mask).astype(np.uint8), SIZE)
    np.testing.assert_allclose(arrays["query_image"], expected, atol=(atol + (atol > 0)) / 127.5)
    np.testing.assert_array_equal(arrays["query_mask"], labels)
    # The set has two images: each is the query or the prompt of every episode.
    same_training(sources)
    same_training(sources, augment=False)


RGB, LABELS = scene()
GREY = np.stack([RGB[..., 0]] * 3, -1)
BITS = np.where(GREY > 99, 255, 0).astype(np.uint8)
FEW = RGB // 64 * 64  # colours that fit a palette
DEEP = RGB.astype(np.uint16) * 256 + np.arange(44, dtype=np.uint16)[:, None] * 5
JPEG = {"kind": "JPEG", "quality": 98, "subsampling": 0}


def palette(**options):
    image = Image.fromarray(FEW).quantize(64, dither=Image.Dither.NONE)
    assert (np.asarray(image.convert("RGB")) == FEW).all()
    return encode(image, **options)


def opencv(array, *options, suffix=".png"):
    return cv2.imencode(suffix, array[..., ::-1] if array.ndim == 3 else array, options)[1].tobytes()


# What the file is called, what is in it, what is seen, and by how many grey levels JPEG may be off.
IMAGES = {
    "jpeg": ("jpg", encode(RGB, **JPEG), RGB, 5),
    "progressive jpeg": ("jpg", encode(RGB, **JPEG, progressive=True), RGB, 5),
    "4:2:0 jpeg with restarts": ("jpg", opencv(RGB, cv2.IMWRITE_JPEG_RST_INTERVAL, 2, suffix=".jpg"), RGB, 12),
    "grey jpeg": ("jpg", encode(GREY[..., 0], "JPEG", quality=98), GREY, 3),
    "cmyk jpeg": ("jpg", encode(RGB, mode="CMYK", **JPEG), RGB, 5),
    "jpeg with rgb inside": ("jpg", encode(RGB, "JPEG", quality=98, keep_rgb=True), RGB, 5),
    "png called jpg": ("jpg", encode(RGB), RGB, 0),
    "jpeg called png": ("png", encode(RGB, **JPEG), RGB, 5),
    "grey png": ("png", encode(GREY[..., 0]), GREY, 0),
    "2-bit grey png": ("png", png(GREY[..., 0] // 64, bits=2), GREY // 64 * 85, 0),
    "1-bit png": ("png", encode(BITS[..., 0], mode="1"), BITS, 0),
    "palette png": ("png", palette(), FEW, 0),
    "palette png with clear colours": ("png", palette(transparency=bytes(64)), FEW, 0),
    "rgba png, all clear": ("png", encode(np.dstack([RGB, 0 * RGB[..., 0]])), RGB, 0),
    "grey png with alpha": ("png", encode(np.dstack([RGB[..., 0], RGB[..., 1]])), GREY, 0),
    "16-bit grey png": ("png", opencv(DEEP[..., 0]), GREY, 0),
    "16-bit colour png": ("png", opencv(DEEP), RGB, 0),
    "interlaced png": ("png", png(RGB, interlaced=True, grey=False), RGB, 0),
    "interlaced grey png": ("png", png(GREY[..., 0], interlaced=True), GREY, 0),
}


@pytest.mark.parametrize("what", IMAGES)
def test_voc_folder_and_record_source_read_image_files(tree, what):
    suffix, data, expected, atol = IMAGES[what]
    tree.add("odd", data, encode(LABELS), suffix)
    assert_both_read(tree, expected, LABELS, atol)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("sampling", ["411", "420", "422", "440", "444"])
def test_read_image_decodes_jpegs_as_pil_does(sampling, progressive):
    """To the last bit, whoever decodes: what a frozen episode shows must not depend on the way it was read."""
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")]
    options += [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    for h, w in ((61, 83), (16, 16), (1, 9), (9, 1)):
        data = opencv(cv2.resize(DEEP, (w, h)).reshape(h, w, 3).astype(np.uint8), *options, suffix=".jpg")
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(read_image(data), expected)


@pytest.mark.parametrize(("h", "w"), [(3, 5), (1, 1), (1, 50), (50, 1), (1, 700), (SIZE, SIZE)])
def test_voc_folder_and_record_source_read_small_and_thin_images(tree, h, w):
    image, mask = scene(h, w)
    mask[h // 2, w // 2 :] = 1
    tree.add("odd", encode(image), encode(mask))
    assert_both_read(tree, image, mask)


def palette_mask(mask, **options):
    image = Image.fromarray(mask)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tolist())
    return encode(image, **options)


MASKS = {
    "palette": (palette_mask(LABELS), LABELS),
    "palette with clear colours": (palette_mask(LABELS, transparency=0), LABELS),
    "palette of 2 bits": (palette_mask(LABELS % 255, bits=2), LABELS % 255),
    "1-bit": (encode((LABELS == 1).astype(np.uint8) * 255, mode="1"), LABELS == 1),
    "interlaced": (png(LABELS, interlaced=True), LABELS),
}


@pytest.mark.parametrize("what", MASKS)
def test_voc_folder_and_record_source_read_mask_files(tree, what):
    data, expected = MASKS[what]
    tree.add("odd", encode(RGB), data)
    assert_both_read(tree, RGB, expected.astype(np.uint8))


# EXIF: pixels are stored turned, and a tag says how to show them. The rule: image and mask are each shown as their own
# tag says, then they must have one size.


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_read_image_turns_an_image_to_fit_its_upright_mask(tree, orientation, kind):
    stored = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
    stored |= {6: np.rot90, 7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: lambda a: np.rot90(a, -1)}
    options = (JPEG if kind == "JPEG" else {"kind": "PNG"}) | {"exif": turned(orientation)}
    tree.add("odd", encode(np.ascontiguousarray(stored[orientation](RGB)), **options), encode(LABELS), "jpg")
    np.testing.assert_allclose(read_image(tree.image("odd")).astype(int), RGB.astype(int), atol=5)
    if orientation in (5, 6):  # the rest is the same from here on
        assert_both_read(tree, RGB, LABELS, atol=5)


def test_voc_folder_and_record_source_turn_image_and_mask_alike(tree):
    image, mask = (encode(np.rot90(a).copy(), exif=turned()) for a in (RGB, LABELS))
    tree.add("odd", image, mask)
    assert_both_read(tree, RGB, LABELS)


def test_voc_folder_and_build_refuse_a_mask_turned_without_the_tag(tree, caplog):
    for name in ("a", "b"):
        tree.add(name, *map(encode, scene()))
    tree.add("odd", encode(np.rot90(RGB).copy(), exif=turned()), encode(np.rot90(LABELS).copy()))
    refusal = r"mask is 30x44, its image .*odd.* is 44x30 \(EXIF rotation applied\); make them agree"
    assert_refused_and_left_out(tree, refusal, caplog)


def test_voc_folder_and_record_source_take_a_square_mask_as_upright(tree):
    image, mask = scene(30, 30)
    tree.add("odd", encode(np.rot90(image).copy(), exif=turned()), encode(mask))
    assert_both_read(tree, image, mask)


PIL12 = int(PIL.__version__.partition(".")[0]) < 13
EXIF_ENTRIES = {  # tag, type, count, value: no value is of the type that its tag has
    "text for a resolution": (0x011A, 2, 4, b"abc\0"),
    "bytes for a resolution": (0x011A, 7, 4, b"abcd"),
    "text for a width": (0x0100, 2, 4, b"abc\0"),
    "an unknown type": (0x011A, 99, 4, b"abcd"),
    "a value beyond the end": (0x010F, 2, 400, b"\0\0\xff\0"),
}


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=pytest.mark.xfail(PIL12 and "end" in what, reason="Pillow 12 reads no tag after it"))
        for what in EXIF_ENTRIES
    ],
)
def test_voc_folder_and_record_source_ignore_nonsense_beside_the_orientation(tree, what):
    """Some cameras and editors write such tags; the pixels are fine, and so is the orientation."""
    entries = sorted([(ORIENTATION, 3, 1, b"\0\6\0\0"), EXIF_ENTRIES[what]])
    tags = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + tags + bytes(4)
    tree.add("odd", encode(np.rot90(RGB).copy(), **JPEG, exif=exif), encode(LABELS), "jpg")
    assert_both_read(tree, RGB, LABELS, atol=5)


# Files that do not fit their image.


def assert_refused_and_left_out(tree, refusal, caplog):
    """Image "odd" stops the build; --skip_bad leaves it out; a folder's training draws its episodes again."""
    status, _, error = tree.build()
    assert status == 2 and error.count("\n") == 1 and "1 of 3 images of folder/train are bad" in error
    status, _, warning = tree.build("--skip_bad")
    assert status == 0 and "left out 1 bad images" in warning
    records, folder = tree.records(), VOCFolder(tree.root, "train")
    assert records.num_images == 2 and folder.num_images == 3  # a folder's images are not opened before they are drawn
    same_training([records])

    with caplog.at_level(logging.WARNING):
        same_training([folder], episodes=12)
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 1
    with pytest.raises(BadFileError, match=refusal):
        folder.episode(EpisodeRecord(1, "class 1", "odd", ("a",)))
    for message in (error, warning, *logged):
        assert re.search(refusal, message)


@pytest.mark.parametrize(
    ("mask", "refusal"),
    [
        (encode(np.ones((29, 44), np.uint8)), r"odd\.png: mask is 44x29, its image .*odd\.png is 44x30"),
        (encode(np.ones((1, 1), np.uint8)), r"odd\.png: mask is 1x1, its image .*odd\.png is 44x30"),
    ],
    ids=["a row short", "one pixel"],
)
def test_voc_folder_and_build_refuse_a_mask_of_another_size(tree, mask, refusal, caplog):
    for name in ("a", "b"):
        tree.add(name, *map(encode, scene()))
    tree.add("odd", encode(RGB), mask)
    assert_refused_and_left_out(tree, refusal, caplog)


@pytest.mark.parametrize(
    ("mask", "mode"),
    [
        (encode(np.stack([LABELS] * 3, -1)), "RGB"),
        (encode(np.dstack([LABELS, LABELS])), "LA"),
        (opencv(LABELS.astype(np.uint16)), "I;16"),
    ],
    ids=["colour", "alpha", "16 bits"],
)
def test_voc_folder_and_build_refuse_masks_whose_labels_would_be_guessed(tree, mask, mode):
    tree.add("odd", encode(RGB), mask)
    refusal = rf"odd\.png: pixels of mode {mode} are no label map, which has one 8-bit channel"
    with pytest.raises(LDISError, match=refusal):
        VOCFolder(tree.root, "train")
    status, _, error = tree.build()
    assert status == 2 and refusal.replace("\\", "") in error


# Masks and crops without an object.


def test_voc_folder_and_record_source_leave_out_a_mask_of_255_only(tree):
    for name in ("a", "b"):
        tree.add(name, *map(encode, scene()))
    tree.add("void", encode(RGB), encode(np.full_like(LABELS, 255)))
    for source in (sources := tree.sources()):
        assert source.num_images == 2 and classes_of(source) == {"a": [1, 2], "b": [1, 2]}
        with pytest.raises(BadFileError, match=r"mask .*no pixel of class 1|void\.png: no pixel of class 1"):
            source.episode(EpisodeRecord(1, "class 1", "a", ("void",)))
    same_training(sources, episodes=20)


@pytest.mark.parametrize("value", [0, 255])
def test_voc_folder_and_record_source_refuse_a_split_without_any_object(tree, value):
    for name in ("a", "b"):
        tree.add(name, encode(RGB), encode(np.full_like(LABELS, value)))
    status, _, error = tree.build()  # what there is to train on is the source's to say
    assert status == 0, error
    for source in (lambda: VOCFolder(tree.root, "train"), tree.records):
        with pytest.raises(LDISError, match="none of its 2 masks shows a class of 1 to 254; choose others"):
            source()


def test_train_episodes_draw_again_where_a_prompts_crop_misses_the_object(tree, monkeypatch):
    """A query may be without its object, a prompt never."""
    for i in range(3):
        mask = np.zeros((32, 256), np.uint8)
        mask[4:12, 8 + 30 * i : 14 + 30 * i] = 1
        tree.add(f"wide{i}", encode(np.random.default_rng(i).integers(0, 256, (32, 256, 3), np.uint8)), encode(mask))
    sources, draws = tree.sources(), []
    draw = VOCFolder.draw
    monkeypatch.setattr(VOCFolder, "draw", lambda *a: draws.append(a) or draw(*a))
    drawn = same_training(sources, episodes=24)
    assert len(draws) > 24 + 8
    assert 4 < sum((arrays["query_mask"] == 1).any() for arrays in drawn) < 20


def test_train_episodes_end_in_one_line_for_a_class_too_small_to_be_seen(tree):
    """A pixel between the pixels that nearest takes is in no prompt ever: no endless loop."""
    mask = np.zeros((64, 64), np.uint8)
    mask[1, 1] = 1
    for name in ("a", "b"):
        tree.add(name, encode(np.zeros((64, 64, 3), np.uint8)), encode(mask))
    for source in tree.sources():
        with pytest.raises(LDISError, match=r"episode 2: 100 draws gave no prompt .* class class 1, query [ab]\)"):
            TrainEpisodes(source, 1, 16, seed=0, length=3, augment=False)[2]


# Files that go bad while training runs.


@pytest.mark.parametrize("what", ["baseline", "progressive", "png"])
def test_train_episodes_skip_a_file_cut_off_in_the_middle_of_training(tree, what, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), np.uint8)
    for i, name in enumerate("abcd"):
        data = encode(noise[i]) if what == "png" else encode(noise[i], "JPEG", progressive=what == "progressive")
        mask = np.zeros((40, 50), np.uint8)
        mask[5:35, 10:40] = 1
        tree.add(name, data, encode(mask), "jpg")
    ours = [TrainEpisodes(source, 1, SIZE, seed=1, length=30) for source in tree.sources()]
    before = [data[i] for data in ours for i in range(10)]
    assert not any(data.bad_files for data in ours)

    path, records = tree.image("c"), next(tree.root.rglob("*array_record*"))
    whole, stored = path.read_bytes(), bytearray(records.read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    start = stored.index(whole)
    stored[start + len(whole) // 2 : start + len(whole)] = bytes(len(whole) - len(whole) // 2)
    records.write_bytes(stored)

    with caplog.at_level(logging.WARNING):
        after = [[data[i] for i in range(10, 30)] for data in ours]
    for a, b in zip(*after, strict=True):  # the same image is bad in both: the same draws follow
        assert_same(a, b)
        assert (a["prompt_masks"] == 1).any()
    assert all(len(data.bad_files) == 1 for data in ours)
    counts = [sum(data.bad_files.values()) for data in ours]
    assert counts[0] == counts[1] > 5  # an image of four is in every second episode
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 2  # each data source says it once
    assert "JPEGImages/c.jpg: damaged image" in logged[0] and "skipped, and drawn again" in logged[1]
    assert_same(before[0], before[10])
