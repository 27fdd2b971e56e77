"""Pictures and masks from whatever a user has: paths, the bytes of a file, PIL images and numpy arrays."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from ldis_jax.errors import LDISError
from ldis_jax.support.files import StrPath, atomic_write, checked_file

ImageSource = StrPath | bytes | Image.Image | np.ndarray
_FILES = (str, os.PathLike, bytes, Image.Image)
_LOGGER = logging.getLogger(__name__)

IGNORE_LABEL = 255
_HALF = 128  # of a lossy mask's range
LOSSY = ("JPEG", "MPO")  # PIL's formats that invent values around objects
# Of the images in a folder, lower case.
PICTURE_SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe"),
    *(".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".sgi", ".tga"),
    *(".tif", ".tiff", ".webp"),
)
_OF_SEVERAL = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")  # formats of animations and pages; MPO's images are of one view

# PIL's modes that a use takes, and what pixels of other modes are not.
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
_IMAGE = (
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", *_DEEP),
    "image: they have no fixed range; save it with 8 or 16 bits",
)
_MASK = (
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", *_DEEP),
    "mask; save it as an 8-bit grey PNG",
)
LABEL_MAP = (("1", "L", "P"), "label map, which has one 8-bit channel; save label values")

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

# What PIL's decoders raise on a damaged file, besides OSError.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def read_image(source: ImageSource, name: str = "") -> np.ndarray:
    """An RGB picture, uint8 [H, W, 3].

    EXIF rotation is applied; grey, palette and CMYK become RGB; 16 bits are scaled to 8; alpha is *dropped*, so that
    the colours under it show.

    Args:
        source: path, bytes of a file, PIL image, or uint8 array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA).
        name: what error messages call bytes.

    Raises:
        LDISError: missing, damaged or not a picture; an array of another shape or type.
    """
    if not isinstance(source, _FILES):
        array = _check_array(source, "image", (np.uint8,))
        return np.repeat(array[..., :1], 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array[..., :3])
    if (pixels := _decode_jpeg(source)) is not None:
        return pixels
    image = _decode(source, name, _IMAGE)
    if image.mode in _DEEP:
        # The high byte, as PIL does for 16-bit colour files.
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    return np.array(image.convert("RGB"))


def read_mask(source: ImageSource, ignore_label: int | None = None, name: str = "") -> np.ndarray:
    """An object mask, uint8 [H, W] in {0, 1, 255}.

    A pixel is object where it is non-zero: the index in a palette file, any colour channel in a colour file (alpha does
    not count). Give lossless files: JPEG invents values around objects, so that its pixels count from 128 on, and none
    is ignored.

    Args:
        source: path, bytes of a file, PIL image, or bool or uint8 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].
        ignore_label: the value that marks "ignore" (255 in the result); in colour files, in all three channels.
        name: what error messages call bytes.

    Raises:
        LDISError: missing, damaged or not a mask; an array of another shape or type.
    """
    lossy = False
    if not isinstance(source, _FILES):
        array = _check_array(source, "mask", (np.bool_, np.uint8))
    else:
        image = _decode(source, name, _MASK)
        array, lossy = np.asarray(image), image.format in LOSSY
        if array.ndim == 2:
            array = array[..., None]
    array = array[..., : 3 if array.shape[-1] > 2 else 1]
    shown = array >= _HALF if lossy else array != 0
    mask = np.asarray(shown.any(axis=-1), np.uint8)
    if ignore_label is not None and not lossy:
        mask[(array == ignore_label).all(axis=-1)] = IGNORE_LABEL
    return mask


def read_label_map(source: StrPath | bytes | Image.Image, name: str = "") -> np.ndarray:
    """The labels of a grey or palette PNG, uint8 [H, W], values as they stand in the file.

    Grey of 2 or 4 bits is the exception: PIL spreads it over 0 to 255. Palettes may have any number of bits.

    Args:
        source: path, bytes of a file, or PIL image.
        name: what error messages call bytes.

    Raises:
        LDISError: missing or damaged; a colour file, whose colours would have to be guessed into labels.
    """
    return np.array(_decode(source, name, LABEL_MAP), dtype=np.uint8)


def read_first_labels(source: ImageSource) -> np.ndarray:
    """The labels of a video's first frame, uint8 [H, W]: 0 background, 255 ignored; of a mask of 0 and 255, 0 and 1.

    Args:
        source: as of :func:`read_label_map`, or an array [H, W] of integers.

    Raises:
        LDISError: as :func:`read_label_map`; an array of another shape or type, or of values beyond 255.
    """
    labels = read_label_map(source) if isinstance(source, _FILES) else np.asarray(source)
    if labels.ndim != 2 or labels.dtype.kind not in "uib" or not labels.size or labels.min() < 0 or labels.max() > 255:
        raise LDISError(f"first_frame_labels {labels.dtype}{list(labels.shape)}: must be integers [H, W], 0 to 255")
    values = set(np.unique(labels).tolist())
    return (labels == 255 if values <= {0, 255} else labels).astype(np.uint8)


def read_stored_mask(source: StrPath) -> Image.Image:
    """A mask file as it is, upright and decoded, with its ``format``: for judging what its values mean.

    Raises:
        LDISError: missing, damaged or not a mask.
    """
    return _decode(source, "", _MASK)


def checked_size(source: StrPath) -> tuple[int, int]:
    """(H, W) of a picture that :func:`read_image` can read, upright; its pixels are decoded, but not kept.

    JPEGs are decoded at an eighth of their size, which finds a file cut off in a fraction of the time.

    Raises:
        LDISError: as :func:`read_image`.
    """
    with _decode_errors(str(source)), _open(source) as image:
        if image.format in LOSSY:
            size = image.size if _orientation(image) > 4 else image.size[::-1]
            image.draft(image.mode, (1, 1))
            image.load()
            return size
    height, width, _ = read_image(source).shape
    return height, width


def size_error(mask: object, size: tuple[int, ...], image: str, image_size: tuple[int, ...]) -> LDISError:
    """What is said of a mask that does not fit its image; sizes are (height, width)."""
    return LDISError(
        f"{mask}: mask is {size[1]}x{size[0]}, {image} is {image_size[1]}x{image_size[0]} (EXIF rotation applied); "
        f"make them agree"
    )


def write_png(path: StrPath, array: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Writes a PNG, whole or not at all.

    Args:
        path: of the file.
        array: uint8 [H, W] or [H, W, 3], or bool [H, W], which become 0 and 255.
        palette: uint8 [N, 3], the colours in which labels 1, 2, ... show, over again from N + 1; 0 is black. The file
            still holds the labels.
    """
    image = Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array)
    if palette is not None:
        colours = np.concatenate([np.zeros((1, 3), np.uint8), np.resize(palette, (255, 3))])
        image.putpalette(colours.tobytes())
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def _check_array(array: object, what: str, dtypes: tuple[type, ...]) -> np.ndarray:
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
        with Image.open(io.BytesIO(source)) as image:  # reads the header only, and refuses what is too large
            usual = image.format == "JPEG" and image.mode == "RGB" and _orientation(image) == 1
        return simplejpeg.decode_jpeg(source) if usual else None
    except (*_DECODE_ERRORS, Image.DecompressionBombError):
        return None  # PIL decides what is wrong with it, if anything is


def _orientation(image: Image.Image) -> int:
    """What EXIF says, 2 to 8; 1 of an upright picture, and where the tag holds nonsense."""
    tag = image.getexif().get(ExifTags.Base.Orientation, 1)
    return tag if tag in _TURNS else 1


def _decode(source: StrPath | bytes | Image.Image, name: str, use: tuple[tuple[str, ...], str]) -> Image.Image:
    """The picture, upright and in memory, of one of the modes that ``use`` takes."""
    if isinstance(source, bytes):
        where = name or "picture"
    else:
        where = "PIL image" if isinstance(source, Image.Image) else str(source)
    with _decode_errors(where), _open(source) as image:
        if not isinstance(source, Image.Image) and not name:
            _say_if_several(image, where)  # named bytes are of records and uploads, of which it is said before
        image.load()
        orientation = _orientation(image)
        upright = image.transpose(_TURNS[orientation]) if orientation > 1 else image
        upright.format = image.format
    modes, name_of_use = use
    if upright.mode not in modes:
        raise LDISError(f"{where}: pixels of mode {upright.mode} are no {name_of_use}")
    return upright


def _say_if_several(image: Image.Image, where: str) -> None:
    several = False
    with contextlib.suppress(*_DECODE_ERRORS):  # of images after the first
        several = image.format in _OF_SEVERAL and getattr(image, "is_animated", False)
    if several:
        _say_once(f"{where}: holds several images; the first one is used")


@functools.lru_cache(1000)
def _say_once(line: str) -> None:
    _LOGGER.warning(line)


def _open(source: StrPath | bytes | Image.Image) -> contextlib.AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return contextlib.nullcontext(source)
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else checked_file(source))


@contextlib.contextmanager
def _decode_errors(where: str) -> Iterator[None]:
    """Says in one line what PIL raises on a bad file."""
    try:
        yield
    except LDISError:
        raise
    except (Image.DecompressionBombError, *_DECODE_ERRORS) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError):
            why = f"{'no such file' if isinstance(error, FileNotFoundError) else 'is a folder'}; name a picture"
        elif isinstance(error, Image.DecompressionBombError):
            why = f"too large ({error}); scale it down first"
        elif isinstance(error, Image.UnidentifiedImageError):
            why = "not a picture that PIL can read; convert it to PNG or JPEG"
        else:
            why = f"damaged picture ({error}); fetch or save it again"
        raise LDISError(f"{where}: {why}") from None
