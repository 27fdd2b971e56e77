"""Image transforms of LDIS, on numpy and OpenCV.

Source: the public training configuration, whose steps are mmcv's and mmseg's; sizes are stated for S = 256 there and
scale with S here. Masks are episode masks in {0, 1, 255}: the public code selects the class before it transforms.
Random transforms draw from the generator they are given and from nothing else.
"""

from __future__ import annotations

import cv2
import numpy as np

from ldis_jax.media.masks import IGNORE_LABEL

# Parallelism is over images (Grain's threads or processes); OpenCV's own threads would only fight with them and XLA.
cv2.setNumThreads(0)

# A function of single uint8 values is a table of 256: the same numbers as arithmetic in float32, without its arrays.
_LEVELS = np.arange(256, dtype=np.float32)
_NORMALISED = (_LEVELS - 127.5) / 127.5

RESCALE = (0.9, 1.1)  # the paper's range of random scales


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(h, w) of an image scaled to long side ``size``: what is left of [S, S] once padding is cut off."""
    return _scaled_size(height, width, size / max(height, width))


def eval_image(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [S, S, 3] in [-1, 1]: long side to S, padded right and below with 0."""
    h, w = fitted_size(image.shape[0], image.shape[1], size)
    return _normalise_and_pad(cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR), size)


def eval_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W] -> uint8 [S, S]: as :func:`eval_image`, nearest, padded with 255."""
    h, w = fitted_size(mask.shape[0], mask.shape[1], size)
    return _pad_mask(cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST), size)


def eval_transform(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Evaluation's transform: :func:`eval_image` and :func:`eval_mask`."""
    return eval_image(image, size), eval_mask(mask, size)


def tile_side(height: int, width: int, tile: float) -> int:
    """Pixels of the square that a task's ``tile`` is of an image, at least 16."""
    return max(round(tile * max(height, width)), 16)


def crop_prompt(image: np.ndarray, mask: np.ndarray, tile: float) -> tuple[np.ndarray, np.ndarray]:
    """The part of a prompt that a network of such a ``tile`` sees: most of the object, and some of the rest.

    Of all squares it is the one with the most object, where object above three quarters of a square counts against it;
    of several such it is the most central one.

    Args:
        image: uint8 [H, W, 3].
        mask: uint8 [H, W] in {0, 1, 255}.
        tile: share of the long side; 1 leaves both as they are.
    """
    height, width = mask.shape
    if tile == 1:
        return image, mask
    side = tile_side(height, width, tile)
    h, w = min(side, height), min(side, width)
    sums = cv2.integral((mask == 1).astype(np.uint8))
    count = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    score = np.minimum(count, h * w * 3 // 2 - count)
    best = np.argwhere(score == score.max())
    top, left = best[np.abs(best - best.mean(0)).sum(1).argmin()]
    place = np.s_[top : top + h, left : left + w]
    return image[place], mask[place]


def restore_size(r: np.ndarray, height: int, width: int) -> np.ndarray:
    """The network's output at the image's own size: padding cut off, then bilinear with half-pixel centres.

    Args:
        r: float32 [S, S, C].
        height: of the image that :func:`eval_image` fitted to S.
        width: likewise.

    Returns:
        float32 [height, width, C].
    """
    h, w = fitted_size(height, width, r.shape[0])
    return cv2.resize(r[:h, :w], (width, height), interpolation=cv2.INTER_LINEAR)


def train_transform(
    image: np.ndarray,
    mask: np.ndarray,
    size: int,
    rng: np.random.Generator,
    *,
    flip: bool = True,
    distort: bool = True,
    rescale: tuple[float, float] = RESCALE,
    tile: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Training's transform: rescale, crop, flip (p = 0.5), photometric distortion, normalise, pad.

    Args:
        image: uint8 [H, W, 3].
        mask: uint8 [H, W] in {0, 1, 255}.
        size: S.
        rng: the only source of randomness.
        flip: false for frames of a video.
        distort: false leaves colours as they are.
        rescale: as of :func:`random_rescale`.
        tile: of the task; below 1 a crop shows that share of the long side, times 1 / r, and mostly some object.

    Returns:
        (float32 [S, S, 3] in [-1, 1], uint8 [S, S]).
    """
    if tile == 1:
        image, mask = random_crop(*random_rescale(image, mask, size, rng, rescale), size, rng)
    else:
        image, mask = random_tile(image, mask, size, rng, tile / rng.uniform(*rescale))
    if flip and rng.integers(2):
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    image = photometric_distortion(image, rng) if distort else image
    return _normalise_and_pad(image, size), _pad_mask(mask, size)


def random_rescale(
    image: np.ndarray,
    mask: np.ndarray,
    size: int,
    rng: np.random.Generator,
    rescale: tuple[float, float] = RESCALE,
) -> tuple[np.ndarray, np.ndarray]:
    """Scales to fit a box of long side 2S and short side S, times r ~ U[rescale] (mmcv's ``RandomResize``)."""
    ratio = rng.uniform(*rescale)
    height, width = mask.shape
    scale = min(int(2 * size * ratio) / max(height, width), int(size * ratio) / min(height, width))
    h, w = _scaled_size(height, width, scale)
    return (
        cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR),
        cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST),
    )


def random_crop(
    image: np.ndarray, mask: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Crops to at most [S, S], preferring crops that show object and background (mmseg's ``RandomCrop``).

    Ten places are tried until object and background are both there and neither takes 75 % of the pixels that are not
    255; after that an eleventh is taken as it comes.
    """
    is_object, is_labelled = mask == 1, mask != IGNORE_LABEL
    for attempt in range(11):
        top = rng.integers(max(mask.shape[0] - size, 0) + 1)
        left = rng.integers(max(mask.shape[1] - size, 0) + 1)
        place = np.s_[top : top + size, left : left + size]
        foreground, labelled = np.count_nonzero(is_object[place]), np.count_nonzero(is_labelled[place])
        if attempt == 10 or 0.25 * labelled < foreground < 0.75 * labelled:
            break
    return image[place], mask[place]


def random_tile(
    image: np.ndarray, mask: np.ndarray, size: int, rng: np.random.Generator, tile: float
) -> tuple[np.ndarray, np.ndarray]:
    """A random square of ``tile`` times the long side, at most [S, S]; four in five hold some of the object."""
    height, width = mask.shape
    side = tile_side(height, width, tile)
    h, w = min(side, height), min(side, width)
    rows, columns = np.nonzero(mask == 1)
    if rng.random() < 0.8 and len(rows):
        i = rng.integers(len(rows))
        top, left = (
            int(np.clip(at[i] - rng.integers(extent), 0, length - extent))
            for at, extent, length in ((rows, h, height), (columns, w, width))
        )
    else:
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    place = np.s_[top : top + h, left : left + w]
    fitted = tuple(max(round(n * size / side), 1) for n in (w, h))
    return (
        cv2.resize(image[place], fitted, interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR),
        cv2.resize(mask[place], fitted, interpolation=cv2.INTER_NEAREST),
    )


def photometric_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random brightness, contrast, saturation and hue on uint8 [H, W, 3] (mmseg's ``PhotoMetricDistortion``).

    Each has p = 0.5 and is rounded down to uint8: brightness +-32; contrast x0.5..1.5, before or after the other
    two; saturation x0.5..1.5; hue -18..17 of 180.
    """
    if rng.integers(2):
        image = _affine(image, beta=rng.uniform(-32, 32))
    contrast_first = rng.integers(2)
    if contrast_first and rng.integers(2):
        image = _affine(image, alpha=rng.uniform(0.5, 1.5))
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        saturation = _affine(cv2.extractChannel(hsv, 1), alpha=rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(cv2.insertChannel(saturation, hsv, 1), cv2.COLOR_HSV2RGB)
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        turned = ((_LEVELS + rng.integers(-18, 18)) % 180).astype(np.uint8)
        hue = cv2.LUT(cv2.extractChannel(hsv, 0), turned)
        image = cv2.cvtColor(cv2.insertChannel(hue, hsv, 0), cv2.COLOR_HSV2RGB)
    if not contrast_first and rng.integers(2):
        image = _affine(image, alpha=rng.uniform(0.5, 1.5))
    return image


def _affine(x: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
    return cv2.LUT(x, np.clip(_LEVELS * np.float32(alpha) + np.float32(beta), 0, 255).astype(np.uint8))


def _scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Rounds as mmcv does; the floor of 1 keeps very long images from vanishing."""
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def _normalise_and_pad(image: np.ndarray, size: int) -> np.ndarray:
    """Pads after normalising, so that padding is mid-grey."""
    normalised = cv2.LUT(image, _NORMALISED)
    if image.shape[:2] == (size, size):
        return normalised
    padded = np.zeros((size, size, 3), np.float32)
    padded[: image.shape[0], : image.shape[1]] = normalised
    return padded


def _pad_mask(mask: np.ndarray, size: int) -> np.ndarray:
    padded = np.full((size, size), IGNORE_LABEL, np.uint8)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded
