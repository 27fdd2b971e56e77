"""Pictures and masks from whatever a user has: paths, the bytes of a file, PIL images and numpy arrays."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from ldis_jax.errors import LDISError
from ldis_jax.support.files import StrPath, atomic_write

ImageSource = StrPath | bytes | Image.Image | np.ndarray

IGNORE_LABEL = 255
_HALF = 128  # of a lossy mask's range
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # lower case; of files in folders

_JPEG_START = b"\xff\xd8"
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
    if isinstance(source, np.ndarray):
        array = _check_array(source, "image", (np.uint8,))
        return np.repeat(array[..., :1], 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array[..., :3])
    if (pixels := _decode_jpeg(source)) is not None:
        return pixels
    image, where = _decode(source, name)
    if image.mode.startswith("I;16"):
        # The high byte, as PIL does for 16-bit colour files.
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise LDISError(f"{where}: 32-bit pixels have no fixed range; save the picture with 8 or 16 bits")
    try:
        return np.array(image.convert("RGB"))
    except ValueError:
        raise LDISError(f"{where}: pixels of mode {image.mode} do not become RGB; convert the picture") from None


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
    if isinstance(source, np.ndarray):
        array = _check_array(source, "mask", (np.bool_, np.uint8))
    else:
        image, where = _decode(source, name)
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I") and not image.mode.startswith("I;16"):
            raise LDISError(f"{where}: a {image.mode} file is not a mask; save it as an 8-bit grey PNG")
        array, lossy = np.asarray(image), image.format in ("JPEG", "MPO")
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
    image, where = _decode(source, name)
    if image.mode not in ("L", "P", "1"):
        raise LDISError(f"{where}: a label map has one 8-bit channel, this file is {image.mode}; save label values")
    return np.array(image, dtype=np.uint8)


def read_first_labels(source: ImageSource) -> np.ndarray:
    """The labels of a video's first frame, uint8 [H, W]: 0 background, 255 ignored; of a mask of 0 and 255, 0 and 1.

    Args:
        source: as of :func:`read_label_map`, or an array [H, W] of integers.

    Raises:
        LDISError: as :func:`read_label_map`; an array of another shape or type, or of values beyond 255.
    """
    labels = source if isinstance(source, np.ndarray) else read_label_map(source)
    if labels.ndim != 2 or labels.dtype.kind not in "uib" or not labels.size or labels.min() < 0 or labels.max() > 255:
        raise LDISError(f"first_frame_labels {labels.dtype}{list(labels.shape)}: must be integers [H, W], 0 to 255")
    values = set(np.unique(labels).tolist())
    return (labels == 255 if values <= {0, 255} else labels).astype(np.uint8)


def read_stored_mask(source: StrPath) -> Image.Image:
    """A mask file as it is, upright and decoded, with its ``format``: for judging what its values mean.

    Raises:
        LDISError: missing, damaged or not a picture.
    """
    return _decode(source, "")[0]


def checked_size(source: StrPath) -> tuple[int, int]:
    """(H, W) of a picture that :func:`read_image` can read, upright; its pixels are decoded, but not kept.

    JPEGs are decoded at an eighth of their size, which finds a file cut off in a fraction of the time.

    Raises:
        LDISError: as :func:`read_image`.
    """
    with _decode_errors(str(source)), open(source, "rb") as file:
        jpeg = file.read(2) == _JPEG_START
    if not jpeg:
        height, width, _ = read_image(source).shape
        return height, width
    with _decode_errors(str(source)), Image.open(source) as image:
        width, height = image.size
        lies = _turn(image) in [_TURNS[tag] for tag in (5, 6, 7, 8)]
        image.draft(image.mode, (1, 1))
        image.load()
    return (width, height) if lies else (height, width)


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


def _check_array(array: np.ndarray, what: str, dtypes: tuple[type, ...]) -> np.ndarray:
    """[H, W] or [H, W, C] -> [H, W, C]."""
    channels = array[..., None] if array.ndim == 2 else array
    if array.dtype not in dtypes or channels.ndim != 3 or channels.shape[-1] not in (1, 3, 4) or not array.size:
        names = " or ".join(np.dtype(d).name for d in dtypes)
        raise LDISError(
            f"{what} array: {array.dtype} of shape {array.shape}; pass {names} of [H, W], [H, W, 1], [H, W, 3] or "
            f"[H, W, 4]"
        )
    return channels


def _decode_jpeg(source: object) -> np.ndarray | None:
    """The common case in a third of PIL's time, to the same pixels: an upright, intact colour JPEG; None of others."""
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                source = file.read() if file.peek(2)[:2] == _JPEG_START else None
        if not isinstance(source, bytes) or source[:2] != _JPEG_START:
            return None
        with Image.open(io.BytesIO(source)) as image:  # reads the header only, and refuses what is too large
            usual = image.format == "JPEG" and image.mode == "RGB" and _turn(image) is None
        return simplejpeg.decode_jpeg(source) if usual else None
    except (*_DECODE_ERRORS, Image.DecompressionBombError):
        return None  # PIL decides what is wrong with it, if anything is


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright by its EXIF tag; any other tag may hold nonsense."""
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.format = image.format
    return turned


def _decode(source: StrPath | bytes | Image.Image, name: str) -> tuple[Image.Image, str]:
    """The picture, upright and in memory, and its name for error messages."""
    if isinstance(source, Image.Image):
        where = "PIL image"
    elif isinstance(source, bytes):
        where = name or "picture"
    elif isinstance(source, (str, os.PathLike)):
        where = str(source)
    else:
        raise LDISError(f"{type(source).__name__} is not a picture; pass a path, a PIL image or a numpy array")
    with _decode_errors(where):
        if isinstance(source, Image.Image):
            source.load()
            return _upright(source), where
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return _upright(image), where


@contextlib.contextmanager
def _decode_errors(where: str) -> Iterator[None]:
    """Says in one line what PIL raises on a bad file."""
    try:
        yield
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
