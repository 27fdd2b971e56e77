"""Pictures, masks and videos that are nearly right: a right result or one clear line."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from ldis_jax.media.images import checked_size, read_image
from ldis_jax.media.masks import read_first_labels, read_label_map, read_mask
from ldis_jax.media.videos import read_video
from tests.fuzz.tally import cases, mutated

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
DISK = np.hypot(*np.mgrid[-20:20, -18:22]) < 12
# Formats that are read -> modes that PIL writes them in.
MODES = {
    "AVIF": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "DIB": ("RGB",),
    "GIF": ("L", "P", "RGB"),
    "ICO": ("RGBA",),
    "JPEG": ("L", "RGB", "CMYK"),
    "JPEG2000": ("L", "RGB", "RGBA", "I;16"),
    "PCX": ("1", "L", "P", "RGB"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "SGI": ("L", "RGB", "RGBA"),
    "TGA": ("L", "LA", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "WEBP": ("RGB", "RGBA"),
}


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(form, mode):
    image = PICTURE.convert("L").convert("I;16") if mode == "I;16" else PICTURE.convert(mode)
    options = {"exif": oriented(6)} if form in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF") else {}
    return encoded(image, form, **options)


def oriented(value):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = value, "a description"
    return exif


def animation(form):
    return encoded(PICTURE, form, save_all=True, append_images=[PICTURE.rotate(90 * i) for i in (1, 2)])


def readable(found):
    assert found.dtype == np.uint8 and found.shape[2:] == (3,) and found.size
    return found


@pytest.mark.parametrize("form", MODES)
@given(data=st.data())
@cases(40)
def test_read_image_and_read_mask_survive_nearly_right_files(form, tally, data):
    content = data.draw(mutated([picture(form, mode) for mode in MODES[form]]))
    label = data.draw(st.integers(-1, 300))
    path = tally.folder / "picture.bin"
    path.write_bytes(content)
    with tally.case():
        image = readable(read_image(content))
        assert checked_size(path) == image.shape[:2]
    with tally.case():
        assert set(np.unique(read_mask(content))) <= {0, 1, 255}
    with tally.case():
        assert (read_mask(content, label=label) == 1).any()
    for read in (read_label_map, read_first_labels):
        with tally.case():
            assert read(path).dtype == np.uint8


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
@given(data=st.data())
@cases(25)
def test_read_video_survives_nearly_right_animations(form, tally, data):
    path = tally.folder / "animation.png"
    path.write_bytes(data.draw(mutated([animation(form)])))
    with tally.case():
        frames = [readable(frame) for frame in read_video(path, say=tally.said)]
        assert 0 < len(frames) <= 20 and len({frame.shape for frame in frames}) == 1


@given(
    mode=st.sampled_from(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F")),
    size=st.tuples(st.sampled_from((1, 2, 3, 7, 40000)), st.integers(1, 5)),
    turned=st.booleans(),
    orientation=st.one_of(st.integers(-1, 70000), st.text(max_size=3), st.binary(max_size=4)),
)
@cases(60)
def test_read_image_survives_any_mode_size_and_exif(tally, mode, size, turned, orientation):
    image = Image.new("L", size[::-1] if turned else size, 100)
    image = image.convert("RGBA").convert("PA") if mode == "PA" else image.convert(mode)
    with tally.case():
        readable(read_image(image))
    with tally.case():
        read_mask(image)
    exif = Image.Exif()
    exif[0x0112] = orientation
    try:
        content = encoded(image.convert("RGB"), "PNG", exif=exif)
    except Exception:  # PIL does not write it
        return
    with tally.case():
        assert sorted(readable(read_image(content)).shape[:2]) == sorted(size)


def two_tone(data):
    """A mask of two tones in any form, with the share of it that may be read as the other."""
    low, high = data.draw(st.integers(0, 100)), data.draw(st.integers(155, 255))
    kind = data.draw(st.sampled_from(("grey", "palette", "colour", "alpha", "bits", "soft", "jpeg", "webp", "deep")))
    if kind in ("jpeg", "webp"):
        low, high = min(low, 60), max(high, 195)
    grey = np.where(DISK, high, low).astype(np.uint8)
    black = np.where(DISK, high, 0).astype(np.uint8)
    image, lossy = Image.fromarray(grey), {}
    match kind:
        case "palette":  # any numbers, in any places of a palette of any other colours
            places = data.draw(st.lists(st.integers(0, 255), min_size=2, max_size=2, unique=True))
            colours = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (256, 3), np.uint8)
            colours[places[0]] = data.draw(st.tuples(*[st.integers(64, 255)] * 3))
            colours[places[1]] = 0
            image = Image.fromarray(np.where(DISK, *places).astype(np.uint8))
            image.putpalette(colours.tobytes())
        case "colour":
            colour = data.draw(st.tuples(*[st.integers(0, 255)] * 3).filter(lambda colour: max(colour) > 127))
            image = Image.fromarray(np.where(DISK[..., None], colour, 0).astype(np.uint8))
        case "alpha":
            noise = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (40, 40, 3), np.uint8)
            image = Image.fromarray(np.dstack([noise, black]))
        case "bits":
            image = Image.fromarray(DISK)
        case "soft":
            scale = data.draw(st.integers(10, 39))
            soft = Image.fromarray(black).resize((scale * 4, scale * 4), Image.Resampling.BICUBIC)
            image = soft.resize((40, 40), Image.Resampling.BILINEAR)
        case "jpeg" | "webp":
            lossy = {"quality": data.draw(st.integers(20, 100))}
        case "deep":
            image = Image.fromarray(np.where(DISK, 40000 + high, low).astype(np.uint16))
    form = {"jpeg": "JPEG", "webp": "WEBP"}.get(kind, "PNG")
    return encoded(image.convert("RGB") if kind == "webp" else image, form, **lossy)


@given(data=st.data())
@cases(400)
def test_read_mask_never_inverts_a_mask_of_two_tones(tally, data):
    content = two_tone(data)
    with tally.case():
        mask = read_mask(content, say=tally.said) == 1
        assert (mask & DISK).sum() > 0.9 * (mask | DISK).sum()


def film(path, codec, options, form):
    """Ten small frames."""
    import av

    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(10):
            image = np.full((48, 64, 3), 30 + i, np.uint8)
            image[10:30, 3 * i : 3 * i + 20] = (200, 60, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize(
    ("codec", "form"),
    [("libx264", "mp4"), ("mpeg4", "avi"), ("mjpeg", "matroska"), ("libvpx", "webm"), ("mpeg2video", "mpegts")],
)
@given(data=st.data())
@cases(25)
def test_read_video_survives_nearly_right_videos(codec, form, tally, data, film_of):
    path = tally.folder / "film.bin"
    path.write_bytes(data.draw(mutated([film_of(codec, form)])))
    with tally.case():
        frames = [readable(frame) for frame in read_video(path, say=tally.said)]
        assert 0 < len(frames) <= 100 and len({frame.shape for frame in frames}) == 1


@pytest.fixture(scope="module")
def film_of(tmp_path_factory):
    """The bytes of a film; each is made once."""
    pytest.importorskip("av")
    made = {}

    def make(codec, form):
        if form not in made:
            made[form] = film(tmp_path_factory.mktemp("film") / "film.bin", codec, {}, form)
        return made[form]

    return make
