"""The definition of each benchmark: data, episodes, accumulation.

Sources: LDIS's own benchmark (paper, "Benchmark"), DAVIS 2017 on the same terms, and COCO-20i, PASCAL-5i and FSS-1000
as HSNet evaluates them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_FOLDS, _HSNET_EPISODES = 4, 1000


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One benchmark.

    Attributes:
        name: as on the command line.
        data: name of the data set.
        split: of the data set.
        kind: "images" (episodes), "objects" (DAVIS: J and F of every object of a video) or "semantic" (VSPW: label maps
            of videos). Of a video the first frame is the prompt. What follows is about images.
        num_shots: prompts an episode (K).
        classes: labels that are tested; empty is all.
        episodes: how many are drawn; 0 is one for every image that can be a query.
        accumulation: of :class:`~ldis_jax.evaluators.MeanIoU`, "ldis" or "hsnet".
        seed: episodes are draws of (seed, index), and so is LDIS-n's noise.
        absent: whether as many episodes follow, draws of (seed + 1, index), whose query does not show what is prompted.
    """

    name: str
    data: str
    split: str = "val"
    kind: str = "images"
    num_shots: int = 1
    classes: tuple[int, ...] = ()
    episodes: int = 0
    accumulation: str = "ldis"
    seed: int = 0
    absent: bool = False


def coco_fold(fold: int) -> tuple[int, ...]:
    """Test classes of a COCO-20i fold: every fourth label of 1..80."""
    return tuple(range(fold + 1, 81, _FOLDS))


def pascal_fold(fold: int) -> tuple[int, ...]:
    """Test classes of a PASCAL-5i fold: five labels in a row of 1..20."""
    return tuple(range(5 * fold + 1, 5 * fold + 6))


def _protocols() -> dict[str, Protocol]:
    found = [Protocol("ldis-pascal", "pascal"), Protocol("ldis-coco", "coco20i")]
    for name, kind in (("davis16", "objects"), ("vspw", "semantic")):
        found += [Protocol(f"{prefix}-{name}", name, kind=kind) for prefix in ("ldis", "mini")]
    found.append(Protocol("ldis-davis17", "davis16", "val2017", kind="objects"))
    for shots in (1, 5):
        hsnet = functools.partial(Protocol, num_shots=shots, accumulation="hsnet")
        for fold in range(_FOLDS):
            for name, data, classes in (("coco20i", "coco20i", coco_fold), ("pascal5i", "pascal", pascal_fold)):
                of_fold = functools.partial(hsnet, classes=classes(fold), episodes=_HSNET_EPISODES)
                found.append(of_fold(f"{name}-fold{fold}-{shots}shot", data))
        found.append(hsnet(f"fss1000-{shots}shot", "fss1000", "test"))
        found.append(hsnet(f"mini-coco-{shots}shot", "coco_mini"))
    found += [
        dataclasses.replace(protocol, name=f"{protocol.name}-absent", absent=True)
        for protocol in found
        if protocol.kind == "images" and protocol.data != "fss1000"  # whose masks show one class of an image
    ]
    return {protocol.name: protocol for protocol in found}


PROTOCOLS = _protocols()


class Folds(NamedTuple):
    """Benchmarks whose classes are parts of one set, and ``whole``, which stands for all of them together."""

    whole: Protocol
    folds: tuple[Protocol, ...]


def _folded() -> dict[str, Folds]:
    found = {}
    for shots in (1, 5):
        for data in ("coco20i", "pascal5i"):
            name, folds = f"{data}-{shots}shot", tuple(PROTOCOLS[f"{data}-fold{f}-{shots}shot"] for f in range(_FOLDS))
            classes = tuple(sorted(label for fold in folds for label in fold.classes))
            found[name] = Folds(dataclasses.replace(folds[0], name=name, classes=classes), folds)
    return found


FOLDED = _folded()
FOLDER = "folder"  # of images of one's own, of which nothing else is known
FOLDER_ABSENT = "folder-absent"


def domain(training_sets: Mapping[str, Sequence[int]], data: str, classes: Sequence[int]) -> str:
    """True if the tested classes were in training, from what the model card records.

    Args:
        training_sets: data set -> labels trained on; no labels means all.
        data: the data set that is tested.
        classes: labels that are tested; none means all.

    Returns:
        "in-domain: ...", "strict: ..." (same data set, other classes), "out-of-domain: ..." or "unknown: ...".
    """
    if not training_sets:
        return "unknown: the model card names no training data"
    if data == FOLDER:
        return (
            f"unknown: trained on {', '.join(training_sets)}; nothing says whether the tested classes were among them"
        )
    if data not in training_sets:
        return f"out-of-domain: trained on {', '.join(training_sets)}"
    trained = set(training_sets[data])
    seen = [label for label in classes if not trained or label in trained]
    if classes and not seen:
        return f"strict: trained on {data}, on none of the {len(classes)} tested classes"
    if not classes or len(seen) == len(classes):
        return f"in-domain: trained on {data} and its tested classes"
    return f"in-domain: trained on {data} and on {len(seen)} of the {len(classes)} tested classes"
