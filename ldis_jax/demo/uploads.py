"""What a browser sends, read within limits: pictures, masks and strokes of the brush."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import cv2
import numpy as np
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.media.images import IGNORE_LABEL, read_image, read_mask
from ldis_jax.media.overlays import PALETTE

# A prompt is kept at no more pixels than this: the network sees a square of far fewer.
_PROMPT_PIXELS = 1_000_000
# Half way between two colours of the palette nothing is sure; the nearest two of them are 90 apart.
_COLOUR_DISTANCE = 40


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the server accepts.

    Attributes:
        upload_mb: of one file, in megabytes of 1024 * 1024 bytes.
        megapixels: of one picture or frame.
    """

    upload_mb: float = 50
    megapixels: float = 25

    @property
    def upload_bytes(self) -> int:
        """Of one file."""
        return int(self.upload_mb * 1024 * 1024)

    def check_size(self, width: int, height: int, name: str) -> None:
        """Raises :class:`LDISError` where a picture has too many pixels."""
        if width * height > self.megapixels * 1e6:
            raise LDISError(
                f"{name}: {width}x{height} is more than the {self.megapixels:g} megapixels allowed here; scale it down"
            )

    def check_upload(self, path: Path, name: str) -> None:
        """Raises :class:`LDISError` where an uploaded file is too large, or was removed after its time.

        The page's script sends an empty file in place of one that is too large.
        """
        if not path.is_file() or not 0 < path.stat().st_size <= self.upload_bytes:
            raise LDISError(
                f"{name}: more than the {self.upload_mb:g} MB allowed here (as a PNG, where you paint), or no longer "
                "on the server; drop it again, or a smaller one"
            )

    def read(self, path: str | Path, name: str = "") -> bytes:
        """The content of a picture file whose header says that it may be decoded.

        Args:
            path: of the file.
            name: what errors call it; its own name, without its folder, unless given.

        Raises:
            LDISError: not a picture, too large a file, or too many pixels.
        """
        path = Path(path)
        name = name or path.name
        self.check_upload(path, name)
        try:
            with Image.open(path) as image:
                size = image.size
        except (OSError, SyntaxError, ValueError):
            raise LDISError(f"{name}: not a picture that can be read; convert it to PNG or JPEG") from None
        self.check_size(*size, name)
        return path.read_bytes()


@dataclasses.dataclass(frozen=True)
class PaintedPrompt:
    """A prompt of a session.

    Attributes:
        image: uint8 [H, W, 3].
        mask: uint8 [H, W] in {0, 1}.
        class_name: prompts of one name are put together.
    """

    image: np.ndarray
    mask: np.ndarray
    class_name: str


def read_query(path: str | None, limits: Limits) -> np.ndarray:
    """The picture to segment, uint8 [H, W, 3].

    Raises:
        LDISError: none, or not a picture within the limits.
    """
    if path is None:
        raise LDISError("No query: drop the picture to segment")
    return read_image(limits.read(path), Path(path).name)


def read_prompt(
    editor: Mapping[str, Any] | None, mask_file: str | None, class_name: str, limits: Limits
) -> PaintedPrompt:
    """A prompt of a picture and its mask: the file where one is given, else what was painted.

    Args:
        editor: "background" and "layers", paths of the picture and of RGBA strokes on it.
        mask_file: a picture whose pixels are object where they are not zero.
        class_name: what the object is; "object" where empty.
        limits: of the server.

    Raises:
        LDISError: no picture, no mask, an empty one or one of another size.
    """
    image, layers = _editors_picture(editor, "prompt picture", limits)
    if mask_file is None:
        mask = (_painted(layers, image.shape[:2], limits) > 0).astype(np.uint8)
    else:
        mask = read_mask_file(mask_file, limits)
        if mask.shape != image.shape[:2]:
            raise LDISError(
                f"{Path(mask_file).name}: is {mask.shape[1]}x{mask.shape[0]}, "
                f"its picture {image.shape[1]}x{image.shape[0]}; give the mask of this picture"
            )
    return PaintedPrompt(*_reduced(image, mask), class_name.strip() or "object")


def read_mask_file(path: str, limits: Limits) -> np.ndarray:
    """A mask file's object, uint8 [H, W] in {0, 1}.

    Raises:
        LDISError: not a picture within the limits, or an empty mask.
    """
    name = Path(path).name
    mask = read_mask(limits.read(path), name=name)
    if not mask.any():
        raise LDISError(f"{name}: empty mask; its object pixels must not be zero")
    return mask


def read_labels(editor: Mapping[str, Any] | None, limits: Limits) -> np.ndarray:
    """Strokes as labels, uint8 [H, W]: 1, 2, ... for the colours of the palette, 255 where colours mix.

    Args:
        editor: as for :func:`read_prompt`.
        limits: of the server.

    Raises:
        LDISError: no picture, or nothing painted.
    """
    image, layers = _editors_picture(editor, "first frame of a video", limits)
    return _painted(layers, image.shape[:2], limits)


def has_picture(editor: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether the editor holds a picture."""
    return editor is not None and editor["background"] is not None


def _editors_picture(editor: Mapping[str, Any] | None, name: str, limits: Limits) -> tuple[np.ndarray, Sequence[str]]:
    """The picture in an editor, uint8 [H, W, 3], and the paths of the strokes on it."""
    if not has_picture(editor):
        raise LDISError(f"No {name}: drop a file, then paint over the object")
    return read_image(limits.read(editor["background"], name), name), editor["layers"]


def _painted(layers: Sequence[str], shape: tuple[int, ...], limits: Limits) -> np.ndarray:
    """The label of the palette's colour nearest to each opaque pixel, later layers over earlier ones."""
    labels = np.zeros(shape, np.uint8)
    palette = PALETTE.astype(np.int32)
    for layer in layers:
        with Image.open(io.BytesIO(limits.read(layer))) as image:
            pixels = np.asarray(image.convert("RGBA"))
        if pixels.shape[:2] != shape:
            continue  # they were painted on the picture before
        opaque = pixels[..., 3] > 127
        colours, index = np.unique(pixels[opaque][:, :3].astype(np.int32), axis=0, return_inverse=True)
        distance = np.linalg.norm(colours[:, None] - palette, axis=-1)
        nearest = np.where(distance.min(1) < _COLOUR_DISTANCE, distance.argmin(1) + 1, IGNORE_LABEL)
        labels[opaque] = nearest[index.ravel()].astype(np.uint8)
    if np.isin(labels, (0, IGNORE_LABEL)).all():
        raise LDISError("Empty mask: paint over the object, one colour an object, or give a mask file")
    return labels


def _reduced(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = (_PROMPT_PIXELS / mask.size) ** 0.5
    if scale >= 1:
        return image, mask
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    return (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA),
        cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST),
    )
