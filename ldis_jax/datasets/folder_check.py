"""Is a user's folder fit to train on? Every file is opened once, before anything else is; the answer is an index."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from ldis_jax.datasets.folder_layout import FolderLayout, Pair, Problem, find_layout
from ldis_jax.datasets.index import ImageIndex, IndexWriter
from ldis_jax.datasets.lists import read_class_names, unlabelled
from ldis_jax.datasets.mask_files import RULES, label_pixels, look_at, mask_rule
from ldis_jax.errors import LDISError
from ldis_jax.media.masks import IGNORE_LABEL
from ldis_jax.support.files import StrPath

_SHARE = 5  # one image of so many is held out
_LEFT = 2  # and a class keeps so many for training: a query and a prompt
SHOWN, _NAMES = 20, 8  # of a report: classes and files; names of held-out images
_BAR = 500  # images from which on a progress bar is shown


@dataclasses.dataclass(frozen=True)
class CheckedFolder:
    """A folder's files, and which of them are usable.

    Attributes:
        layout: where things lie.
        rule: how masks are read, a key of ``mask_files.RULES``.
        class_names: by label value, "background" first.
        pairs: the usable ones, by name.
        object_labels: what the object of a pair is labelled, by name, where the rule is not "labels".
        index: of the usable pairs, in the order of their names.
        held_out: bool [N], which of them are for evaluation.
        problems: files that cannot be used.
        notes: what is used, or passed over, in a way that may not be meant.
    """

    layout: FolderLayout
    rule: str
    class_names: tuple[str, ...]
    pairs: dict[str, Pair]
    object_labels: dict[str, int]
    index: ImageIndex
    held_out: np.ndarray
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    def require_usable(self, skip_bad: bool) -> None:
        """Raises :class:`LDISError` where it cannot be trained on, or, without ``skip_bad``, has any problem."""
        if not skip_bad:
            self.require_good_files()
        if why := self.fatal:
            raise LDISError(why)

    def require_good_files(self) -> None:
        """Raises :class:`LDISError` where there is any problem."""
        if self.problems:
            count = f"{len(self.problems)} file{'s' if len(self.problems) > 1 else ''}"
            raise LDISError(
                f"{self.layout.root}: {count} cannot be used, such as {self.problems[0]}. Mend them; to leave them "
                f"out, check_data and evaluate take --skip_bad, and training --config.data.skip_bad=True"
            )

    @property
    def fatal(self) -> str:
        """Why nothing can be trained; empty otherwise."""
        root, classes = self.layout.root, self.classes()
        if not classes:
            return f"{root}: no image with a mask that shows an object"
        most = max(classes, key=lambda name: classes[name]["images"])
        too_few = f"the most frequent ({most}) has {classes[most]['images']}; add some"
        if not any(c["images"] - c["held_out"] >= _LEFT for c in classes.values()):
            return f"{root}: a class needs {_LEFT} images to train on, {too_few}"
        if not any(c["held_out"] and c["images"] > c["held_out"] for c in classes.values()):
            needs = f"a class needs {_LEFT} to train on and one more"
            return f"{root}: no image is left to measure with: {needs}, {too_few}"
        return ""

    @property
    def not_exhaustive(self) -> str:
        """Why an image may show classes that its mask does not have; empty where it cannot."""
        if len(set(self.object_labels.values())) > 1:
            return "each image lies in the folder of one class, and its mask shows no other"
        ignored = (self.index.labels == IGNORE_LABEL).any()
        return unlabelled(self.layout.root / "classes.json") if ignored else ""

    def name_of(self, label: int) -> str:
        """The name of a class."""
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"

    def classes(self) -> dict[str, dict[str, int]]:
        """Name of each class -> its "label", how many "images" show it, and how many of them are "held_out"."""
        rows = self.index.rows()
        found = {}
        for label in _objects(self.index).tolist():
            shown = rows[self.index.labels == label]
            name = self.name_of(label)
            found[name] = {"label": label, "images": len(shown), "held_out": int(self.held_out[shown].sum())}
        return found


def check_folder(root: StrPath) -> CheckedFolder:
    """Opens every image and mask of a folder, in threads; remembered for as long as its files stay as they are.

    How masks are read follows from all of them together: VOC's are label maps; others too, unless they have one value
    beside 0, or 255 with few greys between it and 0. Then the object is a class of its own, or, where images lie in
    sub-folders, each of these is a class.

    Raises:
        LDISError: there is no such folder, or it has no known layout.
    """
    layout = find_layout(root)
    files = [path for pair in layout.pairs for path in (pair.image, pair.mask)]
    names = layout.root / "classes.json"
    stamps = [os.stat(path) for path in [*files, *([str(names)] if names.exists() else [])]]
    return _check(layout, tuple((stamp.st_size, stamp.st_mtime_ns) for stamp in stamps))


@functools.lru_cache(maxsize=4)
def _check(layout: FolderLayout, stamps: tuple[tuple[int, int], ...]) -> CheckedFolder:
    with ThreadPoolExecutor() as pool:
        title, count = f"check {layout.root.name}", len(layout.pairs)
        look = functools.partial(look_at, by_index=layout.label_maps or (layout.root / "classes.json").exists())
        looks = list(tqdm(pool.map(look, layout.pairs), title, count, unit=" images", disable=count < _BAR))
    rule = "labels" if layout.label_maps else mask_rule(looks)
    problems, notes = list(layout.problems), list(layout.notes)
    names, object_labels = _class_labels(layout, rule)

    writer, pairs = IndexWriter(), {}
    for pair, look in zip(layout.pairs, looks, strict=True):
        if problem := look.problem or (rule == "labels" and look.not_labels and Problem(pair.mask, look.not_labels)):
            problems.append(problem)
            continue
        labels = label_pixels(look, rule, object_labels.get(pair.name, 0))
        objects = sum(count for label, count in labels.items() if label not in (0, IGNORE_LABEL))
        if not objects:
            ignored = f": its values are 0 and {IGNORE_LABEL}, and {IGNORE_LABEL} is ignored" if len(labels) > 1 else ""
            notes.append(Problem(pair.mask, f"no object{ignored}; the image is passed over"))
        elif rule != "labels" and 0 not in labels:
            notes.append(Problem(pair.mask, "all of it is object; background has the value 0"))
        if rule != "labels" and look.said:
            notes.append(Problem(pair.mask, look.said))
        pairs[pair.name] = pair
        writer.add(pair.name, look.size, labels, labels.values())
    index = writer.finish()
    if layout.val is None:
        held_out = hold_out(index)
    else:
        held_out = np.isin(index.names, np.array([name.encode() for name in layout.val], np.bytes_))
    checked = CheckedFolder(layout, rule, names, pairs, object_labels, index, held_out, tuple(problems), tuple(notes))
    rare = [name for name, counts in checked.classes().items() if counts["images"] == 1]
    notes += [Problem(f"class {name!r}", "in one image only, which no other can prompt") for name in rare]
    return dataclasses.replace(checked, notes=tuple(notes))


def _class_labels(layout: FolderLayout, rule: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names by label, and the label of each pair's object, which the masks do not tell unless they are label maps."""
    names = tuple(read_class_names(layout.root / "classes.json"))
    if rule == "labels":
        return names, {}
    folder_of = {}
    for pair in layout.pairs:
        folders = pair.name.split("/")[layout.class_depth : -1]
        folder_of[pair.name] = folders[0] if folders else ""
    labels = {folder: i + (i >= IGNORE_LABEL) for i, folder in enumerate(sorted(set(folder_of.values())), 1)}
    if labels.keys() - {""}:
        by_label = {label: folder or "object" for folder, label in labels.items()}
        names = tuple(by_label.get(label, "background") for label in range(max(by_label) + 1))
    return names or ("background", "object"), {name: labels[folder] for name, folder in folder_of.items()}


def _objects(index: ImageIndex) -> np.ndarray:
    labels = np.unique(index.labels)
    return labels[(labels != 0) & (labels != IGNORE_LABEL)]


def hold_out(index: ImageIndex) -> np.ndarray:
    """Which images to evaluate on, bool [N]: one in five, chosen by a hash of their names.

    A class keeps two images for training where it has them, so rare classes may lose none; an image without an object
    is never held out.
    """
    objects, rows = _objects(index), index.rows()
    left = {int(label): int(np.count_nonzero(index.labels == label)) for label in objects}
    labels_of: dict[int, list[int]] = {}
    for row, label in zip(rows.tolist(), index.labels.tolist(), strict=True):
        if label in left:
            labels_of.setdefault(row, []).append(label)
    held_out = np.zeros(len(index), bool)
    for row in sorted(labels_of, key=lambda row: hashlib.sha256(bytes(index.names[row])).digest()):
        if held_out.sum() >= max(1, round(len(labels_of) / _SHARE)):
            break
        labels = [label for label in labels_of[row] if left[label] > 1]
        if labels and all(left[label] > _LEFT for label in labels):
            held_out[row] = True
            for label in labels_of[row]:
                left[label] -= 1
    return held_out


def summary(checked: CheckedFolder) -> dict[str, Any]:
    """The findings as JSON types."""
    names = [name.decode() for name in checked.index.names[checked.held_out]]
    sizes = np.stack([checked.index.widths, checked.index.heights], -1)
    return {
        "folder": str(checked.layout.root),
        "layout": "voc" if checked.layout.label_maps else "images and masks",
        "images": len(checked.index),
        "widths": _range(sizes[:, 0]),
        "heights": _range(sizes[:, 1]),
        "masks": checked.rule,
        "classes": checked.classes(),
        "held_out_by": "a hash of their names" if checked.layout.val is None else "the folder's own split",
        "held_out": names,
        "problems": [problem._asdict() for problem in checked.problems],
        "notes": [note._asdict() for note in checked.notes],
        "fatal": checked.fatal or None,
    }


def _range(values: np.ndarray) -> list[int] | None:
    """[least, median, most]."""
    return [int(values.min()), int(np.median(values)), int(values.max())] if len(values) else None


def report_lines(checked: CheckedFolder, limit: int = SHOWN) -> list[str]:
    """The lines that ``check_data`` prints, with at most ``limit`` of its problems and as many notes."""
    facts = summary(checked)
    held_out, classes = facts["held_out"], facts["classes"]
    (low, _, wide), (short, _, high) = (facts[name] or (0, 0, 0) for name in ("widths", "heights"))
    shown = [
        f"{facts['folder']}: {facts['layout']}, {facts['images']} images, {low} to {wide} wide, {short} to {high} high",
        f"masks: {RULES[checked.rule]}",
        f"{'class':<24} {'images':>8} {'held out':>8}",
    ]
    most = sorted(classes.items(), key=lambda item: -item[1]["images"])
    shown += [f"{name:<24} {counts['images']:>8} {counts['held_out']:>8}" for name, counts in most[:SHOWN]]
    shown += _rest(len(classes), SHOWN, "classes")
    by = facts["held_out_by"]
    shown.append(f"held out to evaluate, by {by}: {len(held_out)}: {', '.join(held_out[:_NAMES])}")
    shown += _rest(len(held_out), _NAMES, "images")
    return [*shown, *_listed("problem", checked.problems, limit), *_listed("note", checked.notes, limit)]


def _listed(kind: str, found: Sequence[Problem], limit: int) -> list[str]:
    return [f"{kind}: {problem}" for problem in found[:limit]] + _rest(len(found), limit, f"{kind}s")


def _rest(count: int, limit: int, what: str) -> list[str]:
    return [f"and {count - limit} more {what}"] if count > limit else []
