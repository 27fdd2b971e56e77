"""Images from whatever a user has: paths, the bytes of a file, PIL images and numpy arrays."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

import numpy as np
import simplejpeg
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from ldis_jax.errors import LDISError
from ldis_jax.support.files import StrPath, atomic_write, checked_file, list_files, reading

ImageSource = StrPath | bytes | Image.Image | np.ndarray
_LOGGER = logging.getLogger(__name__)

# PIL refuses images of more pixels than twice this, 500 million here. It warns from this number on, as of something
# that nobody looked at.
Image.MAX_IMAGE_PIXELS = 250_000_000
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# What PIL may open. Its other plug-ins are for formats that nobody's photographs have, and that for PostScript starts
# another program.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
)
LOSSY = ("JPEG", "MPO")  # those that always invent values around objects
# Of the images in a folder, lower case.
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe"),
    *(".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".sgi", ".tga"),
    *(".tif", ".tiff", ".webp"),
)
# Of photographs that are not read; a folder may hold them, and nobody meant them to be passed over.
_FOREIGN_SUFFIXES = (
    *(".arw", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".jxl", ".jxr", ".nef", ".orf"),
    *(".psd", ".raf", ".rw2", ".svg"),
)
_OF_SEVERAL = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")  # formats of animations and pages; MPO's images are of one view

# PIL's modes that a use takes, and what pixels of other modes are not.
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
_IMAGE = (
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", *_DEEP),
    "image: they have no fixed range; save it with 8 or 16 bits",
)
_DEEP_COLOURS = "ldis_jax: 16 bits"  # in an image's info
_JPEG_START = b"\xff\xd8"
# By EXIF's tag; ImageOps.exif_transpose would also write all other tags again, and fail where one holds nonsense.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: ImageSource, name: str = "") -> np.ndarray:
    """An RGB image, uint8 [H, W, 3].

    EXIF rotation is applied; grey, palette and CMYK become RGB; 16 bits are scaled to 8, fewer bits in 16 to their
    range, which is said; alpha is *dropped*, so that the colours under it show. An image of 500 million pixels is the
    largest; it takes 9 bytes a pixel to read, and 3 of them stay.

    Args:
        source: path, bytes of a file, PIL image, or uint8 array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA).
        name: what error messages call bytes.

    Raises:
        LDISError: missing, damaged or not an image; an array of another shape or type.
    """
    if not is_file(source):
        array = check_array(source, "image", (np.uint8,))
        return np.repeat(array[..., :1], 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array[..., :3])
    if (pixels := _decode_jpeg(source)) is not None:
        return pixels
    image = decode(source, name, _IMAGE)
    if image.mode in _DEEP:
        return np.repeat(_eight_bits(np.asarray(image), name or name_of(source, "image"))[..., None], 3, axis=-1)
    pixels = np.array(image.convert("RGB"))
    _say_if_dark(image, pixels, name or name_of(source, "image"))
    return pixels


def list_images(folder: StrPath, say: Callable[[str], object] = _LOGGER.warning) -> list[Path]:
    """The images of a folder, in the order of the numbers in their names; ``say`` takes a line on those not read."""
    if foreign := list_files(folder, _FOREIGN_SUFFIXES):
        say(f"{folder}: files such as {foreign[0].name} ({len(foreign)}) are passed over; convert them to PNG or JPEG")
    return list_files(folder, IMAGE_SUFFIXES)


def checked_size(source: StrPath) -> tuple[int, int]:
    """(H, W) of an image that :func:`read_image` can read, upright; its pixels are decoded, but not kept.

    JPEGs are decoded at an eighth of their size, which finds a file cut off in a fraction of the time.

    Raises:
        LDISError: as :func:`read_image`.
    """
    with decode_errors(str(source)), open_image(source) as image:
        if image.format in LOSSY:
            size = image.size if _orientation(image) > 4 else image.size[::-1]
            image.draft(image.mode, (1, 1))
            image.load()
            return size
    height, width, _ = read_image(source).shape
    return height, width


def size_error(mask: object, size: tuple[int, ...], image: str, image_size: tuple[int, ...]) -> LDISError:
    """The error for a mask that does not fit its image; sizes are (height, width)."""
    return LDISError(
        f"{mask}: mask is {size[1]}x{size[0]}, {image} is {image_size[1]}x{image_size[0]} (EXIF rotation applied); "
        f"make them agree"
    )


def write_png(
    path: StrPath, array: np.ndarray, palette: np.ndarray | None = None, notes: Mapping[str, str] | None = None
) -> None:
    """Writes a PNG, whole or not at all.

    Args:
        path: of the file.
        array: uint8 [H, W] or [H, W, 3], or bool [H, W], which become 0 and 255.
        palette: uint8 [N, 3], the colours in which labels 1, 2, ... show, over again from N + 1; 0 is black. The file
            still holds the labels.
        notes: what the file says besides, by name: text chunks of the PNG.
    """
    image = Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array)
    if palette is not None:
        colours = np.concatenate([np.zeros((1, 3), np.uint8), np.resize(palette, (255, 3))])
        image.putpalette(colours.tobytes())
    text = PngInfo()
    for name, value in (notes or {}).items():
        text.add_text(name, value)
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=text)


def read_note(path: StrPath, name: str) -> str | None:
    """One of the notes that :func:`write_png` wrote; None where there is none that can be read."""
    try:
        with reading(path), Image.open(checked_file(path), formats=("PNG",)) as image:
            return image.info.get(name)
    except LDISError:
        return None


def check_array(array: object, what: str, dtypes: tuple[type, ...]) -> np.ndarray:
    """[H, W] or [H, W, C] -> [H, W, C]."""
    found = type(array).__name__
    if isinstance(array, np.ndarray):
        channels = array[..., None] if array.ndim == 2 else array
        if array.dtype in dtypes and channels.ndim == 3 and channels.shape[-1] in (1, 3, 4) and array.size:
            return channels
        found = f"{array.dtype} of shape {array.shape}"
    names = " or ".join(np.dtype(d).name for d in dtypes)
    raise LDISError(
        f"{what} array: {found}; pass a path, a PIL image, or {names} of [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
    )


def _decode_jpeg(source: object) -> np.ndarray | None:
    """The common case in a third of PIL's time, to the same pixels: an upright, intact colour JPEG; None of others."""
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(checked_file(source), "rb") as file:
                source = file.read() if file.peek(2)[:2] == _JPEG_START else None
        if not isinstance(source, bytes) or source[:2] != _JPEG_START:
            return None
        with open_image(source) as image:  # reads the header only, and refuses what is too large
            usual = image.format == "JPEG" and image.mode == "RGB" and _orientation(image) == 1
        return simplejpeg.decode_jpeg(source) if usual else None
    except Exception:
        return None  # PIL decides what is wrong with it, if anything is


def _eight_bits(array: np.ndarray, where: str) -> np.ndarray:
    """The high byte of 16 bits, as PIL has it of 16-bit colour files; cameras and scanners use fewer, too."""
    bits = next(bits for bits in (8, 10, 12, 14, 16) if array.max(initial=0) < 1 << bits)
    if bits == 16 or not array.any():
        return (array >> 8).astype(np.uint8)
    _LOGGER.warning("%s: %d bits in 16; scaled to their range", where, bits)
    return (array >> (bits - 8)).astype(np.uint8)


def _say_if_dark(image: Image.Image, pixels: np.ndarray, where: str) -> None:
    """Warns where PIL, which keeps only the high byte of 16-bit colours, makes an image dark."""
    if image.info.get(_DEEP_COLOURS) and pixels.max(initial=0) < 1 << 6:
        _LOGGER.warning("%s: fewer bits in 16, nearly black; save it with 8 bits", where)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 2 to 8; 1 for an upright image, and where the tag or all of EXIF is invalid."""
    try:
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
        return tag if tag in _TURNS else 1
    except Exception:  # whatever its parser meets
        return 1


def name_of(source: object, otherwise: str) -> str:
    """The name of a source in messages: its path, if it is one."""
    return str(source) if isinstance(source, (str, os.PathLike)) else otherwise


def is_file(source: object) -> TypeGuard[StrPath | bytes | Image.Image]:
    """True if it is a path, the bytes of a file or a PIL image, and no array."""
    return isinstance(source, (str, os.PathLike, bytes, Image.Image))


def open_image(source: StrPath | bytes) -> Image.Image:
    """PIL's image of a path or of the bytes of a file, its header read; of the formats that are read, by content."""
    image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else checked_file(source), formats=_FORMATS)
    image.filename = ""  # else PIL maps plain TIFFs into memory, and forgets to turn them
    return image


def decode(source: StrPath | bytes | Image.Image, name: str, use: tuple[tuple[str, ...], str]) -> Image.Image:
    """The image, upright and in memory.

    Args:
        source: path, bytes of a file, or PIL image.
        name: what error messages call bytes.
        use: the modes that it may have, and what pixels of others are not.

    Raises:
        LDISError: missing, damaged, not an image, or of another mode.
    """
    where = name_of(source, "PIL image" if isinstance(source, Image.Image) else name or "image")
    with decode_errors(where), _opened(source) as image:
        if isinstance(source, (str, os.PathLike)) or (isinstance(source, bytes) and not name):
            _say_if_several(image, where)  # named bytes are of records and uploads, of which it is said before
        if image.format not in (None, *LOSSY, *_FORMATS):
            raise Image.UnidentifiedImageError(image.format)
        deep = ";16" in str(getattr(image, "tile", ""))  # how the file has its pixels, until they are read
        image.load()
        orientation = _orientation(image)
        upright = image.transpose(_TURNS[orientation]) if orientation > 1 else image
        if image.format == "PPM" and image.mode == "I":  # grey of more than 8 bits, which PIL has scaled to 16
            upright = upright.convert("I;16")
        upright.format = image.format
        upright.info[_DEEP_COLOURS] = deep
    modes, name_of_use = use
    if upright.mode not in modes:
        raise LDISError(f"{where}: pixels of mode {upright.mode} are no {name_of_use}")
    return upright


def _say_if_several(image: Image.Image, where: str) -> None:
    several = False
    with contextlib.suppress(Exception):  # of images after the first
        several = image.format in _OF_SEVERAL and getattr(image, "is_animated", False)
    if several:
        _say_once(f"{where}: holds several images; the first one is used")


@functools.lru_cache(1000)
def _say_once(line: str) -> None:
    _LOGGER.warning(line)


def _opened(source: StrPath | bytes | Image.Image) -> contextlib.AbstractContextManager[Image.Image]:
    return contextlib.nullcontext(source) if isinstance(source, Image.Image) else open_image(source)


@contextlib.contextmanager
def decode_errors(where: str) -> Iterator[None]:
    """Says in one line what PIL raises on a bad file, which is whatever its decoders come upon."""
    try:
        yield
    except (LDISError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError):
            why = f"{'no such file' if isinstance(error, FileNotFoundError) else 'is a folder'}; name an image"
        elif isinstance(error, Image.DecompressionBombError):
            why = f"too large ({error}); scale it down first"
        elif isinstance(error, Image.UnidentifiedImageError):
            why = "not an image that is read here; convert it to PNG or JPEG"
        else:
            why = f"damaged image ({error}); fetch or save it again"
        raise LDISError(f"{where}: {why}") from None
