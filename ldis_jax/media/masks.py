"""Masks from whatever a user has: what their pixels mean is judged by content, in one place for all who read masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.media.images import LOSSY, ImageSource, check_array, decode, is_file, name_of
from ldis_jax.support.checks import check_integer
from ldis_jax.support.files import StrPath

IGNORE_LABEL = 255
_LOGGER = logging.getLogger(__name__)
Say = Callable[[str], object]

# PIL's modes that a use takes, and what pixels of other modes are not.
_MASK = (
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "I;16N"),
    "mask; save it as an 8-bit grey PNG",
)
LABEL_MAP = (("1", "L", "P"), "label map, which has one 8-bit channel; save label values")

_PICTURE_COLOURS = 16  # so many colours are an image's, cut out by its alpha
_VOID = (224, 224, 192)  # what VOC's palette shows 255, its ignored label, as
_SOFTEST = 32  # a single grey between 0 and 255 is an edge's from here on; labels are below
_MOST_LISTED = 10  # of the labels in a message
_SHADE = 48  # how far, of 255, a shade of one colour may be from it


class MaskValues(NamedTuple):
    """One value a pixel.

    Attributes:
        values: integers [H, W]: grey, labels, or of a colour on black 0 to 255.
        colours: how many colours beside black there are, where they are no shades of one; 0 otherwise.
        said: what is not as it looks; empty otherwise.
        indices: integers [H, W], of a palette that is read by what it shows.
    """

    values: np.ndarray
    colours: int = 0
    said: str = ""
    indices: np.ndarray | None = None


def read_mask(
    source: ImageSource,
    ignore_label: int | None = None,
    name: str = "",
    say: Say = _LOGGER.warning,
    *,
    label: int | None = None,
    names: Sequence[str] = (),
) -> np.ndarray:
    """The mask of one object, uint8 [H, W] in {0, 1, 255}.

    Of two values, 0 and any other, the other is the object. Soft edges, JPEG's noise and greys count from the half of
    their range on. 255 beside 0 and a label is ignored. Palettes and colours are read by what they show, on black;
    VOC's palette is its labels. An image that is cut out has its mask in its alpha channel.

    With ``label`` it is read as a label map: the object is that value, or that index of a palette; 255 is ignored.

    Args:
        source: path, bytes of a file, PIL image, or bool or uint8 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].
        ignore_label: the value, 0 to 255, that marks "ignore" (255 in the result); of colours, in all three channels.
        name: what messages call what is no path.
        say: called with a line where the mask is not read as it looks; logs a warning by default.
        label: of several, the one that is the object, 1 or more.
        names: of labels, by value; where there are any, a palette's indices are labels.

    Raises:
        LDISError: missing, damaged or not a mask; several labels or colours; no background; a label that is not there;
            an array of another shape or type.
    """
    if ignore_label is not None:
        check_integer("ignore_label", ignore_label, 0, maximum=IGNORE_LABEL)
    where = name or name_of(source, "mask")
    found, lossy = _values(source, name, by_index=label is not None or bool(names))
    if label is None:
        judged = judge(found.values, lossy, ignore_label)
        certain = isinstance(source, np.ndarray) and source.dtype == np.bool_
        _check_one_object(found, lossy, judged, certain, where, names)
    else:
        judged = _choose(found, lossy, label, ignore_label, where, names)
    for line in filter(None, (found.said, judged.said())):
        say(f"{where}: {line}")
    return np.where(judged.labels == IGNORE_LABEL, IGNORE_LABEL, judged.labels != 0).astype(np.uint8)


def labels_to_choose(source: ImageSource, name: str = "") -> np.ndarray | None:
    """The label map, integers [H, W], of a mask that :func:`read_mask` takes with a ``label`` only; None of others.

    Raises:
        LDISError: missing, damaged or not a mask.
    """
    found, lossy = _values(source, name)
    judged = judge(found.values, lossy)
    several = not lossy and _several_labels(found, judged)
    return (judged.labels if found.indices is None else found.indices) if several else None


def list_labels(labels: Sequence[int], names: Sequence[str]) -> str:
    """At most ten of them with their names, those by value, and how many more."""
    shown = [f"{x} ({names[x]:.40})" if x < len(names) else str(x) for x in labels[:_MOST_LISTED]]
    rest = len(labels) - _MOST_LISTED
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def read_label_map(source: StrPath | bytes | Image.Image, name: str = "") -> np.ndarray:
    """The labels of a grey or palette PNG, uint8 [H, W], values as the file has them.

    Grey of 2 or 4 bits is the exception: PIL spreads it over 0 to 255. Palettes may have any number of bits.

    Args:
        source: path, bytes of a file, or PIL image.
        name: what error messages call bytes.

    Raises:
        LDISError: missing or damaged; a colour file, whose colours would have to be guessed into labels.
    """
    return np.array(decode(source, name, LABEL_MAP), dtype=np.uint8)


def read_first_labels(source: ImageSource, say: Say = _LOGGER.warning) -> np.ndarray:
    """The labels of a video's first frame, uint8 [H, W]: 0 background, 255 ignored; of a mask of 0 and 255, 0 and 1.

    Soft edges and colours are read as :func:`read_mask` reads them: one object then.

    Args:
        source: path, bytes of a file, PIL image, or an array [H, W] of integers.
        say: as of :func:`read_mask`.

    Raises:
        LDISError: as :func:`read_mask`, but for several labels; an array of another shape or type, or of values
            beyond 255.
    """
    where = name_of(source, "first_frame_labels")
    if is_file(source):
        found, lossy = _values(source, "")
    else:
        array = np.asarray(source)
        integers = array.ndim == 2 and array.dtype.kind in "uib" and array.size
        if not integers or array.min() < 0 or array.max() > IGNORE_LABEL:
            raise LDISError(f"{where} {array.dtype}{list(array.shape)}: must be integers [H, W], 0 to 255")
        found, lossy = MaskValues(array.astype(np.int64)), False
    judged = judge(found.values, lossy)
    labels = judged.labels
    _check_labels(found, lossy and not judged.half and labels.max() > 1, where)
    if labels.min() < 0 or labels.max() > IGNORE_LABEL:
        raise LDISError(f"{where}: values beyond 0 to 255; save label values, 0 for background")
    # An array holds labels by what is asked for: that 255 is ignored is no news.
    for line in filter(None, (found.said, judged.said() if is_file(source) or judged.half else "")):
        say(f"{where}: {line}")
    return labels.astype(np.uint8)


def stored_mask(source: StrPath) -> tuple[Image.Image, bool]:
    """A mask file as it is, upright and decoded, and whether its format invents values.

    Raises:
        LDISError: missing, damaged or not a mask.
    """
    image = decode(source, "", _MASK)
    return image, image.format in LOSSY


def object_mask(source: StrPath | bytes, soft: bool, name: str = "") -> np.ndarray:
    """Bool [H, W] of a mask whose making is known: all values but 0 are the object, of soft ones and JPEGs a half.

    Raises:
        LDISError: missing, damaged or not a mask.
    """
    found, lossy = _values(source, name)
    return found.values >= (_half(found.values) if lossy or soft else 1)


def mask_values(image: Image.Image, by_index: bool = False) -> MaskValues:
    """One value a pixel of a decoded mask.

    Args:
        image: of a mode that masks have.
        by_index: a palette's indices are labels, whatever it shows.
    """
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        used = palette[[index for index in np.unique(np.asarray(image)) if index < len(palette)]]
        labels = tuple(palette[0]) == (0, 0, 0) and "transparency" not in image.info and (used != used[:, :1]).any()
        if by_index or not len(palette) or labels:  # black first, then colours: labels, as in VOC's palette
            return MaskValues(np.asarray(image))
    if image.mode in ("P", "PA"):
        shown = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
        found = array_values(np.asarray(shown))
        return found._replace(indices=np.asarray(image)) if image.mode == "P" else found
    return array_values(np.asarray(image))


def array_values(array: np.ndarray) -> MaskValues:
    """The same of an array [H, W] or [H, W, 1], 2 (grey and alpha), 3 or 4."""
    if array.ndim == 2 or array.shape[-1] == 1:
        return MaskValues(array.reshape(array.shape[:2]))
    if array.shape[-1] in (2, 4):
        alpha, array = array[..., -1], array[..., :-1]
        if alpha.min() < (most := alpha.max()):
            seen = _colours(array[alpha > most / 2])
            if len(seen) == 1 or seen.any(-1).all() or len(_colours(array)) > _PICTURE_COLOURS:
                return MaskValues(alpha, 0, "the mask is its alpha channel" if len(seen) > 1 else "")
            array = np.where(alpha[..., None] > most / 2, array, 0)
    if (array == array[..., :1]).all():
        return MaskValues(array[..., 0])
    return _of_colours(array)


def _of_colours(array: np.ndarray) -> MaskValues:
    """The labels in RGB: shades of one colour on black are its greys; VOC's colour of what is ignored is 255."""
    colours = _colours(array)
    shown = colours[colours.any(-1)]
    void = (shown == _VOID).all(-1)
    if void.any() and len(shown) == 2:
        values = np.asarray(array.any(-1), np.uint8)
        values[(array == _VOID).all(-1)] = IGNORE_LABEL
        return MaskValues(values)
    brightest = shown[np.argmax(shown.max(-1))]
    share = shown.max(-1, keepdims=True) / brightest.max()
    if np.abs(shown - share * brightest).max() > _SHADE:
        return MaskValues(np.where(array.any(-1), 255, 0), len(shown))
    return MaskValues(np.round(array.max(-1) * (255 / brightest.max())).astype(np.uint8))


def _colours(array: np.ndarray) -> np.ndarray:
    """The different ones of pixels [..., C], integers [N, C]."""
    place = 8 * np.arange(array.shape[-1])
    return np.unique(array @ (1 << place))[:, None] >> place & 255


class Judged(NamedTuple):
    """The meaning of a mask's values.

    Attributes:
        labels: integers [H, W]; 0 is background, 255 ignored.
        half: from what value on the object was taken to be, where its edges are soft; 0 otherwise.
        ignored: whether 255 is ignored because other labels are there.
    """

    labels: np.ndarray
    half: int = 0
    ignored: bool = False

    def said(self) -> str:
        """The remark to make, if any."""
        ignored = f"{IGNORE_LABEL} is ignored" if self.ignored else ""
        return f"soft or noisy edges; values from {self.half} on are the object" if self.half else ignored


def judge(values: np.ndarray, lossy: bool = False, ignore_label: int | None = None) -> Judged:
    """Finds out what values mean.

    Args:
        values: integers [H, W], or bool.
        lossy: the format invents values, whatever they look like.
        ignore_label: as of :func:`read_mask`.
    """
    values = values.view(np.uint8) if values.dtype == np.bool_ else values
    ignored = np.zeros(values.shape, bool) if ignore_label is None or lossy else values == ignore_label
    found, counts = count_values(values[~ignored])
    top = found.max(initial=0)
    if (lossy and top >= _half(found)) or _is_soft(values, found, counts):
        judged = Judged((values >= _half(found)).astype(np.uint8), half=_half(found))
    elif top >= IGNORE_LABEL and set(found.tolist()) <= {0, top}:
        judged = Judged((values != 0).astype(np.uint8))
    else:
        judged = Judged(values.copy(), ignored=IGNORE_LABEL in found)
    judged.labels[ignored] = IGNORE_LABEL
    return judged


def _several_labels(found: MaskValues, judged: Judged) -> list[int]:
    """Those of a mask that does not say which of them is the object; a palette of a few colours says it of none."""
    labels = labels_in(judged.labels)
    if found.indices is not None and (len(labels) > 1 or 0 < found.colours <= _PICTURE_COLOURS):
        return labels_in(found.indices)
    return labels if len(labels) > 1 else []


def _check_one_object(
    found: MaskValues, lossy: bool, judged: Judged, certain: bool, where: str, names: Sequence[str]
) -> None:
    if several := _several_labels(found, judged):
        _check_labels(found._replace(colours=0), lossy, where)
        raise LDISError(
            f"{where}: labels {list_labels(several, names)}; choose one: MASK@{several[0]} on the command line, "
            f"label={several[0]} in Python"
        )
    bare = not certain and labels_in(judged.labels) and not (judged.labels == 0).any()
    if found.colours or bare:
        why = f"{found.colours} colours beside black" if found.colours else "no background"
        raise LDISError(f"{where}: {why}; a mask shows one object: give it one value, and 0 to what is around it")


def _choose(
    found: MaskValues, lossy: bool, label: int, ignore_label: int | None, where: str, names: Sequence[str]
) -> Judged:
    """Chooses one label of a label map, which becomes 1."""
    check_integer(f"{where}: label", label, unit="; 0 is the background")
    _check_labels(found, lossy, where)
    values = found.values.view(np.uint8) if found.values.dtype == np.bool_ else found.values
    ignored = values == IGNORE_LABEL
    said = bool(ignored.any()) and ignore_label != IGNORE_LABEL
    if ignore_label is not None:
        ignored |= values == ignore_label
    labels = labels_in(np.where(ignored, IGNORE_LABEL, values))
    if label not in labels:
        held = f"it has {list_labels(labels, names)}" if labels else "it holds no labels: leave the label out"
        raise LDISError(f"{where}: no label {list_labels([label], names)} in it; {held}")
    return Judged(np.where(ignored, IGNORE_LABEL, values == label), ignored=said)


def _check_labels(found: MaskValues, lossy: bool, where: str) -> None:
    """Raises :class:`LDISError` where values cannot be labels."""
    if found.colours or lossy:
        why = f"{found.colours} colours beside black" if found.colours else "labels in a format that changes them"
        raise LDISError(f"{where}: {why}; save label values, 0 for background")


def labels_in(labels: np.ndarray) -> list[int]:
    """Those of a label map but 0 and 255, ascending."""
    return [label for label in count_values(labels)[0].tolist() if label not in (0, IGNORE_LABEL)]


def count_values(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of an array of integers, ascending, and how often each is there."""
    if array.dtype.itemsize > 1:
        return np.unique(array, return_counts=True)
    counts = np.bincount(array.ravel(), minlength=1)
    values = np.flatnonzero(counts)
    return values, counts[values]


def _half(found: np.ndarray) -> int:
    """Half of the values' range, of 8 or 16 bits."""
    return 128 if found.max(initial=0) < 256 else 1 << 15


def _is_soft(values: np.ndarray, found: np.ndarray, counts: np.ndarray) -> bool:
    """True if values are a ramp from background to object, and no labels.

    Labels lie in areas of one value, and any may lie beside any; the values of a ramp lie in lines between their
    neighbours in it.
    """
    half = _half(found)
    if len(found) < 2 or not found[0] < half <= found[-1]:
        return False
    if len(found) == 2:
        return found[0] > 1  # 0 and a label; from 1 on labels without a background; or two greys
    between = counts[1:-1].sum()
    if len(found) == 3 and found[0] == 0 and (found[1] < _SOFTEST or between > counts[-1] / 2):
        return False
    levels = np.searchsorted(found, values)
    inner = levels[1:-1, 1:-1]
    around = (levels[:-2, 1:-1], levels[2:, 1:-1], levels[1:-1, :-2], levels[1:-1, 2:])
    flat = np.logical_and.reduce([inner == side for side in around]) & (inner > 0) & (inner < len(found) - 1)
    steps = np.concatenate([np.abs(np.diff(levels, axis=axis)).ravel() for axis in (0, 1)])
    return flat.sum() < between / 2 or (steps > 1).sum() < (steps > 0).sum() / 10


def _values(source: ImageSource, name: str, by_index: bool = False) -> tuple[MaskValues, bool]:
    if not is_file(source):
        return array_values(check_array(source, "mask", (np.bool_, np.uint8))), False
    image = decode(source, name, _MASK)
    return mask_values(image, by_index), image.format in LOSSY
