"""A user's folders to evaluate on, with a choice of queries, prompts and classes; several are one source."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ldis_jax.datasets.folder_check import CheckedFolder, check_folder
from ldis_jax.datasets.index import IndexWriter
from ldis_jax.datasets.lists import read_class_lists, read_lines
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.errors import LDISError, list_names
from ldis_jax.input_pipeline.episodes import EpisodeRecord, episode_rng
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.media.masks import IGNORE_LABEL

ALL, HELD_OUT = "all", "held_out"
_IDS = 1 << 16  # class ids of a folder: more than it has labels


@dataclasses.dataclass(frozen=True)
class Choice:
    """The choice of queries, prompts and classes to evaluate on.

    Attributes:
        queries: "all" images, those that are "held_out" of training, or a file that lists names.
        prompts: a file that lists names; None is the images that are no queries or, of "all", all.
        classes: labels, names, or lists of them in ``classes.json``, such as "unseen_classes"; empty is all.
        min_object_percent: of an image's pixels, the least that a class covers where it counts, in queries and prompts.
        skip_bad: leaves out files that cannot be used, instead of stopping.
    """

    queries: str = ALL
    prompts: Path | None = None
    classes: Sequence[str] = ()
    min_object_percent: float = 0.0
    skip_bad: bool = False


class ChosenFolders(IndexedSource):
    """Folders in either layout, checked file by file; prompts are of the query's folder.

    Of several, names of images and classes begin with "FOLDER/", and a class id is the label plus 65536 times the
    folder's place in the order of names. Manifests are of one folder each, in its own names and labels.

    Attributes:
        folders: by name, sorted.
    """

    def __init__(self, roots: Sequence[Path], choice: Choice):
        """Opens every file, unless this process has done so already.

        Raises:
            LDISError: folders of one name, files that cannot be used, or a choice that names nothing that is there.
        """
        self.folders = _check(roots, choice.skip_bad)
        self.not_exhaustive = "a folder's masks do not show the classes of another; evaluate one at a time"
        if len(roots) == 1:
            self.not_exhaustive = next(iter(self.folders.values())).not_exhaustive
        where, several = list_names(map(str, roots)), len(roots) > 1
        self._prefixes = [f"{name}/" if several else "" for name in self.folders]
        self._names: dict[int, str] = {}  # of classes, by id
        self._files: dict[str, tuple[int, str]] = {}  # by name: the folder's number, and the name in it
        chosen, writer, complete = _chosen_labels(self.folders, choice.classes), IndexWriter(), IndexWriter()
        for number, (prefix, checked) in enumerate(zip(self._prefixes, self.folders.values(), strict=True)):
            index, start = checked.index, number * _IDS
            self._names |= {start + label: prefix + name for label, name in _names(checked).items()}
            for i, name in enumerate(index.names):
                size, entries = (int(index.heights[i]), int(index.widths[i])), slice(*index.offsets[i : i + 2])
                labels, pixels = index.labels[entries], index.pixels[entries]
                counts = np.isin(labels, chosen[number]) & (
                    pixels >= choice.min_object_percent / 100 * size[0] * size[1]
                )
                is_object = (labels != 0) & (labels != IGNORE_LABEL)
                complete.add(prefix + name.decode(), size, np.where(is_object, start + labels, labels), pixels)
                self._files[prefix + name.decode()] = number, name.decode()
                writer.add(prefix + name.decode(), size, start + labels[counts], pixels[counts])
        index = writer.finish()
        if not len(index.labels):
            least = f" on {choice.min_object_percent:g} % of its pixels" if choice.min_object_percent else ""
            raise LDISError(f"{where}: no image with a mask that shows an object{least}; check_data says what is there")
        self._places = {name: row for row, name in enumerate(self._files)}
        queries = None if choice.prompts is None else np.ones(len(index), bool)
        if choice.queries == HELD_OUT:
            queries = np.concatenate([checked.held_out for checked in self.folders.values()])
        elif choice.queries != ALL:
            queries = self._listed(Path(choice.queries))
        prompts = None if choice.prompts is None else self._listed(choice.prompts)
        super().__init__(index, (), None, where, queries, prompts, complete.finish())

    @property
    def data_hash(self) -> str:
        """16 hex digits over names and masks of all images, and the sizes of their files."""
        digest = hashlib.sha256()
        for folder, checked in self.folders.items():
            for name, pair in checked.pairs.items():
                mask = hashlib.sha256(Path(pair.mask).read_bytes()).hexdigest()
                digest.update(f"{folder} {name} {os.stat(pair.image).st_size} {mask}\n".encode())
        return digest.hexdigest()[:16]

    def draw_each(self, num_shots: int, most: int | None = None, seed: int = 0) -> list[EpisodeRecord]:
        """An episode for every query and every class that it shows, or for ``most`` queries of a class.

        Each is a draw of (seed, index), where the index counts all pairs of an image and a class: a smaller ``most``
        gives some of the episodes of a larger one.

        Raises:
            LDISError: no class has a query with that many prompts.
        """
        drawn: dict[int, list[tuple[float, int, EpisodeRecord]]] = {}
        for entry in np.flatnonzero(self._usable(num_shots)).tolist():
            rng = episode_rng(seed, entry)
            rank = rng.random()
            record = self._draw_prompts(rng, num_shots, entry)
            drawn.setdefault(record.class_id, []).append((rank, entry, record))
        if not drawn:
            raise LDISError(
                f"{self._where}: {num_shots}-shot episodes need a query and {num_shots} other images of its class, and "
                f"there are of {', of '.join(self.left_out(num_shots)[:3])}; add images, lower num_shots, or choose "
                "other queries (--queries=all)"
            )
        chosen = [item for items in drawn.values() for item in sorted(items)[:most]]
        return [record for _, _, record in sorted(chosen, key=lambda item: item[1])]

    def left_out(self, num_shots: int) -> list[str]:
        """The classes without an episode of that many prompts, in words."""
        found = []
        for label in np.setdiff1d(self._labels, self._labels[self._usable(num_shots)]).tolist():
            entries = self._labels == label
            queries = entries & self._is_query
            prompts = self._num_prompts[queries if queries.any() else entries].max()
            found.append(f"{self._class_name(label)}: {np.count_nonzero(queries)} queries, {prompts} prompts for one")
        return found

    def of_manifest(self, folder: str, records: Sequence[EpisodeRecord], manifest: Path) -> list[EpisodeRecord]:
        """A folder's episodes, in its own names and labels, as those of this source.

        Raises:
            LDISError: an image is not there, or does not show the class.
        """
        number, found = list(self.folders).index(folder), []
        shown = set(zip(self._rows.tolist(), self._labels.tolist(), strict=True))
        for i, record in enumerate(records):
            query, *prompts = (self._prefixes[number] + name for name in (record.query, *record.prompts))
            class_id = number * _IDS + record.class_id
            there = [(query, not record.absent), *((name, True) for name in prompts)]
            for name, shows in there:
                if name not in self._places or ((self._places[name], class_id) in shown) != shows:
                    raise LDISError(
                        f"{manifest}: episode {i}: {name} is no image that {'shows' if shows else 'lacks'} class "
                        f"{record.class_id} ({record.class_name}); freeze the episodes again from this data"
                    )
            found.append(EpisodeRecord(class_id, self._class_name(class_id), query, tuple(prompts), record.absent))
        return found

    def to_manifest(self, folder: str, records: Sequence[EpisodeRecord]) -> list[EpisodeRecord]:
        """Those of this source's episodes that are of a folder, in its own names and labels."""
        number = list(self.folders).index(folder)
        start = len(self._prefixes[number])
        return [
            EpisodeRecord(
                r.class_id % _IDS,
                r.class_name[start:],
                r.query[start:],
                tuple(p[start:] for p in r.prompts),
                r.absent,
            )
            for r in records
            if r.class_id // _IDS == number
        ]

    def _usable(self, num_shots: int) -> np.ndarray:
        """Which pairs of an image and a class can be an episode."""
        return self._is_query & (self._num_prompts >= num_shots)

    def _listed(self, path: Path) -> np.ndarray:
        """The images of a list, bool [N]."""
        names = read_lines(path)
        unknown = [name for name in names if name not in self._places]
        if unknown or not names:
            what = f"{list_names(unknown)}: no image has that name" if names else "names no image"
            raise LDISError(f"{path}: {what}; write one name a line, such as {next(iter(self._places))}")
        found = np.zeros(len(self._places), bool)
        found[[self._places[name] for name in names]] = True
        return found

    def _class_name(self, class_id: int) -> str:
        return self._names[class_id]

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        number, own = self._files[name]
        checked = list(self.folders.values())[number]
        pair = checked.pairs[own]
        image, labels = read_pair(pair.image, pair.mask, checked.rule, checked.object_labels.get(own, 0))
        is_object = (labels != 0) & (labels != IGNORE_LABEL)
        return image, np.where(is_object, labels + np.int32(number * _IDS), labels)


def _check(roots: Sequence[Path], skip_bad: bool) -> dict[str, CheckedFolder]:
    named = sorted((Path(os.path.abspath(root)).name, root) for root in roots)  # a link keeps its own name
    count = Counter(name for name, _ in named)
    if twice := [name for name in count if count[name] > 1]:
        raise LDISError(
            f"--data: {list_names(twice)}: several folders of one name; give each once, under a name of its own"
        )
    found = {name: check_folder(root) for name, root in named}
    for checked in found.values():
        if not skip_bad:
            checked.require_good_files()
    return found


def _names(checked: CheckedFolder) -> dict[int, str]:
    """Names by label, of those that are there; a label follows a name that several have."""
    labels = sorted(set(checked.index.labels.tolist()) - {0, IGNORE_LABEL})
    names = [checked.class_names[label] if label < len(checked.class_names) else f"class {label}" for label in labels]
    count = Counter(names)
    return {label: f"{name} ({label})" if count[name] > 1 else name for label, name in zip(labels, names, strict=True)}


def _chosen_labels(folders: Mapping[str, CheckedFolder], classes: Sequence[str]) -> list[list[int]]:
    """Labels by folder: those that are asked for, or all.

    Raises:
        LDISError: a class that is in no folder, or a folder without any of the classes.
    """
    named = {folder: _names(checked) for folder, checked in folders.items()}
    if not classes:
        return [list(names) for names in named.values()]
    found: dict[str, set[int]] = {folder: set() for folder in folders}
    for text in classes:
        there = False
        for folder, checked in folders.items():
            parts = read_class_lists(checked.layout.root / "classes.json").get(text, [text])
            wanted = {str(part) for part in parts}
            labels = {label for label, name in named[folder].items() if name in wanted or str(label) in wanted}
            found[folder] |= labels
            there = there or bool(labels)
        if not there:
            known = list_names({name for names in named.values() for name in names.values()})
            raise LDISError(
                f"--classes={text}: no mask of {list_names(folders)} shows it; they show {known or 'nothing'}"
            )
    if without := [folder for folder, labels in found.items() if not labels]:
        raise LDISError(
            f"--data: {list_names(without)}: no mask there shows a class of --classes; leave that folder out"
        )
    return [sorted(labels) for labels in found.values()]
