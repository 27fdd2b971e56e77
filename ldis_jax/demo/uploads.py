"""Uploads of a browser, read within limits: images, masks and strokes of the brush."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.inference.read_prompts import open_prompts
from ldis_jax.media.images import decode_errors, open_image, read_image
from ldis_jax.media.masks import IGNORE_LABEL, Say, labels_in, labels_to_choose, list_labels, read_mask
from ldis_jax.media.overlays import PALETTE

# A prompt is kept at no more pixels than this: the network sees a square of far fewer.
_PROMPT_PIXELS = 1_000_000
# Half way between two colours of the palette nothing is sure; the nearest two of them are 90 apart.
_COLOUR_DISTANCE = 40
MOST_LAYERS = 8  # of strokes in one editor


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on what the server accepts.

    Attributes:
        upload_mb: of one file, in megabytes of 1024 * 1024 bytes.
        megapixels: of one image or frame.
        session_mb: of all uploads of one browser within an hour.
        total_mb: of all uploads within an hour, and of the server's files.
        minutes: of one run of the model.
    """

    upload_mb: float = 50
    megapixels: float = 25
    session_mb: float = 500
    total_mb: float = 4000
    minutes: float = 10

    @property
    def upload_bytes(self) -> int:
        """The most bytes of one file."""
        return int(self.upload_mb * 1024 * 1024)

    def check_size(self, width: int, height: int, name: str) -> None:
        """Raises :class:`LDISError` where an image has too many pixels."""
        if width * height > self.megapixels * 1e6:
            raise LDISError(
                f"{name}: {width}x{height} is more than the {self.megapixels:g} megapixels allowed here; scale it down"
            )

    def read(self, path: str | None, name: str) -> bytes:
        """The content of an image file whose header says that it may be decoded.

        Args:
            path: None where nothing was uploaded. The page's script sends an empty file in place of one that is too
                large, and the server removes files after their time.
            name: what errors call it.

        Raises:
            LDISError: no such file, or too large a one.
        """
        file = Path(path or "")
        if not file.is_file() or not 0 < file.stat().st_size <= self.upload_bytes:
            raise LDISError(
                f"No {name}: drop a file of at most {self.upload_mb:g} MB (as a PNG, where you paint); it is kept for "
                "an hour"
            )
        size = 0, 0  # of what is no image, which decoding says
        with contextlib.suppress(Exception), open_image(file) as image:
            size = image.size
        self.check_size(*size, name)
        return file.read_bytes()


@dataclasses.dataclass(frozen=True)
class PaintedPrompt:
    """A prompt of a session.

    Attributes:
        image: uint8 [H, W, 3].
        mask: uint8 [H, W] in {0, 1, 255}.
        class_name: prompts of one name are put together.
    """

    image: np.ndarray
    mask: np.ndarray
    class_name: str


def read_query(path: str | None, limits: Limits) -> np.ndarray:
    """The image to segment, uint8 [H, W, 3].

    Raises:
        LDISError: none, or not an image within the limits.
    """
    return read_image(limits.read(path, "query"), "query")


def read_prompt(
    editor: Mapping[str, Any], mask_file: str | None, class_name: str, limits: Limits, label: int | None = None
) -> PaintedPrompt:
    """A prompt of an image and its mask: the file where one is given, else what was painted.

    Args:
        editor: "background" and "layers", paths of the image (or None) and of RGBA strokes on it.
        mask_file: as of :func:`~ldis_jax.media.masks.read_mask`.
        class_name: "object" where empty.
        limits: of the server.
        label: of a mask file with several, the one that is the object.

    Raises:
        LDISError: no image, no mask, an empty one, one of another size, or of several labels with none chosen.
    """
    image = read_prompt_image(editor, limits)
    if mask_file is None:
        mask = (_painted(editor["layers"], image.shape[:2], limits) > 0).astype(np.uint8)
    else:
        mask = read_mask_file(mask_file, limits, label)
    open_prompts({"object": [(image, mask)]}, IGNORE_LABEL)  # for its checks
    return PaintedPrompt(*reduced(image, mask), class_name.strip() or "object")


def read_mask_file(path: str, limits: Limits, label: int | None = None, say: Say = lambda line: None) -> np.ndarray:
    """A mask file's object, uint8 [H, W] in {0, 1, 255}.

    Args:
        path: of the upload.
        limits: of the server.
        label: of several, the one that is the object.
        say: called with a line where the mask is not read as it looks.

    Raises:
        LDISError: as :func:`read_query`, or of no mask; of several labels with none chosen.
    """
    if label is None and (labels := read_mask_labels(path, limits)) is not None:
        raise LDISError(f"mask file: labels {list_labels(labels_in(labels), ())}; choose below it which is the object")
    return read_mask(limits.read(path, "mask file"), name="mask file", say=say, label=label)


def read_mask_labels(path: str, limits: Limits) -> np.ndarray | None:
    """The label map, integers [H, W], of a mask file with several labels; None of others.

    Raises:
        LDISError: as :func:`read_query`, or of no mask.
    """
    return labels_to_choose(limits.read(path, "mask file"), "mask file")


def read_labels(editor: Mapping[str, Any], limits: Limits) -> np.ndarray:
    """An editor's strokes as labels, uint8 [H, W]: 1, 2, ... for the palette's colours, 255 where colours mix.

    Raises:
        LDISError: no image, or nothing painted.
    """
    image = _editors_image(editor, "first frame of a video", limits)
    return _painted(editor["layers"], image.shape[:2], limits)


def read_prompt_image(editor: Mapping[str, Any], limits: Limits) -> np.ndarray:
    """The editor's image, uint8 [H, W, 3]; raises :class:`LDISError` where there is none within the limits."""
    return _editors_image(editor, "prompt image", limits)


def _editors_image(editor: Mapping[str, Any], name: str, limits: Limits) -> np.ndarray:
    return read_image(limits.read(editor["background"], name), name)


def _painted(layers: Sequence[str], shape: tuple[int, ...], limits: Limits) -> np.ndarray:
    """The label of the palette's colour nearest to each opaque pixel, later layers over earlier ones."""
    if len(layers) > MOST_LAYERS:
        raise LDISError(f"{len(layers)} layers of strokes; {MOST_LAYERS} are the most")
    labels = np.zeros(shape, np.uint8)
    for layer in layers:
        with decode_errors("stroke"), open_image(limits.read(layer, "stroke")) as image:
            pixels = np.asarray(image.convert("RGBA"))
        if pixels.shape[:2] != shape:
            continue  # they were painted on the image before
        opaque = pixels[..., 3] > 127
        colours = pixels[opaque][:, :3]
        parts = np.array_split(colours, 1 + len(colours) // 2**20)  # few in memory at a time, in more than 8 bits
        labels[opaque] = np.concatenate([_nearest(part.astype(np.int32)) for part in parts])
    if np.isin(labels, (0, IGNORE_LABEL)).all():
        raise LDISError("Empty mask: paint over the object, one colour an object, or give a mask file")
    return labels


def _nearest(colours: np.ndarray) -> np.ndarray:
    """int32 [N, 3] -> uint8 [N], the palette's label; 255 far from all of its colours."""
    labels = np.full(len(colours), IGNORE_LABEL, np.uint8)
    least = np.full(len(colours), _COLOUR_DISTANCE**2, np.int32)
    for label, colour in enumerate(PALETTE.astype(np.int32), 1):
        distance = np.square(colours - colour).sum(-1, dtype=np.int32)
        labels[distance < least] = label
        np.minimum(least, distance, out=least)
    return labels


def reduced(image: np.ndarray, mask: np.ndarray, pixels: int = _PROMPT_PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """Both with no more pixels than these; uint8 [H, W, 3] and [H, W]."""
    scale = (pixels / mask.size) ** 0.5
    if scale >= 1:
        return image, mask
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    return (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA),
        cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST),
    )
