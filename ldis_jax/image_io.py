"""Pictures and masks from whatever a user has: paths, PIL images and numpy arrays."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ldis_jax.errors import LDISError
from ldis_jax.files import StrPath, atomic_write

ImageSource = StrPath | Image.Image | np.ndarray

IGNORE_LABEL = 255

# What PIL's decoders raise on a damaged file, besides OSError.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def read_image(source: ImageSource) -> np.ndarray:
    """An RGB picture, uint8 [H, W, 3].

    EXIF rotation is applied; grey, palette and CMYK become RGB; 16 bits are scaled to 8; alpha is *dropped*, so that
    the colours under it show.

    Args:
        source: path, PIL image, or uint8 array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA).

    Raises:
        LDISError: missing, damaged or not a picture; an array of another shape or type.
    """
    if isinstance(source, np.ndarray):
        array = _check_array(source, "image", (np.uint8,))
        return np.repeat(array[..., :1], 3, axis=-1) if array.shape[-1] == 1 else array[..., :3].copy()
    with _opened(source) as (image, where):
        if image.mode.startswith("I;16"):
            # The high byte, as PIL does for 16-bit colour files.
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        if image.mode in ("I", "F"):
            raise LDISError(f"{where}: 32-bit pixels have no fixed range; save the picture with 8 or 16 bits")
        return np.array(image.convert("RGB"))


def read_mask(source: ImageSource, ignore_label: int | None = None) -> np.ndarray:
    """An object mask, uint8 [H, W] in {0, 1, 255}.

    A pixel is object where it is non-zero: the index in a palette file, any colour channel in a colour file (alpha does
    not count). Give lossless files: JPEG puts non-zero noise around objects.

    Args:
        source: path, PIL image, or bool or uint8 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].
        ignore_label: the value that marks "ignore" (255 in the result); in colour files, in all three channels.

    Raises:
        LDISError: missing, damaged or not a mask; an array of another shape or type.
    """
    if isinstance(source, np.ndarray):
        array = _check_array(source, "mask", (np.bool_, np.uint8))
    else:
        with _opened(source) as (image, where):
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I") and image.mode[:4] != "I;16":
                raise LDISError(f"{where}: a {image.mode} file is not a mask; save it as an 8-bit grey PNG")
            array = np.asarray(image)
        if array.ndim == 2:
            array = array[..., None]
    array = array[..., : 3 if array.shape[-1] > 2 else 1]
    mask = (array != 0).any(axis=-1).astype(np.uint8)
    if ignore_label is not None:
        mask[(array == ignore_label).all(axis=-1)] = IGNORE_LABEL
    return mask


def read_label_map(path: StrPath) -> np.ndarray:
    """The labels of a grey or palette PNG, uint8 [H, W], values as they stand in the file.

    Raises:
        LDISError: missing or damaged; a colour file, whose colours would have to be guessed into labels.
    """
    with _opened(path) as (image, where):
        if image.mode not in ("L", "P", "1"):
            raise LDISError(f"{where}: a label map has one 8-bit channel, this file is {image.mode}; save label values")
        return np.array(image, dtype=np.uint8)


def write_png(path: StrPath, array: np.ndarray) -> None:
    """Writes uint8 [H, W] or [H, W, 3], or bool [H, W] as 0 / 255; whole or not at all."""
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    with atomic_write(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG")


def _check_array(array: np.ndarray, what: str, dtypes: tuple[type, ...]) -> np.ndarray:
    """[H, W] or [H, W, C] -> [H, W, C]."""
    if array.dtype not in dtypes:
        names = " or ".join(np.dtype(d).name for d in dtypes)
        raise LDISError(f"{what} array: dtype {array.dtype}; convert it to {names}")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or not array.size:
        raise LDISError(f"{what} array: shape {array.shape}; pass [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    return array


@contextmanager
def _opened(source: StrPath | Image.Image) -> Iterator[tuple[Image.Image, str]]:
    """The decoded picture, upright, and its name for error messages."""
    if isinstance(source, Image.Image):
        yield ImageOps.exif_transpose(source), "PIL image"
        return
    if not isinstance(source, (str, os.PathLike)):
        raise LDISError(f"expected a path, a PIL image or a numpy array, got {type(source).__name__}")
    path = Path(source)
    if not path.is_file():
        raise LDISError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give the path of a picture")
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise LDISError(f"{path}: more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; scale it down first") from None
    except Image.UnidentifiedImageError:
        raise LDISError(f"{path}: not a picture that PIL can read; convert it to PNG or JPEG") from None
    except _DECODE_ERRORS as error:
        raise LDISError(f"{path}: damaged picture ({error}); fetch or save it again") from None
    yield upright, str(path)
