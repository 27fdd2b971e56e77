"""Where ``python -m ldis_jax.segment`` writes, and what keeps results from being lost, overwritten or mixed up."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.errors import LDISError, list_names
from ldis_jax.inference.results import ClassSegmentation, Segmentation, read_scores
from ldis_jax.media.images import IMAGE_SUFFIXES, write_png
from ldis_jax.media.masks import read_label_map
from ldis_jax.media.videos import VIDEO_SUFFIXES
from ldis_jax.support.files import write_json
from ldis_jax.support.json_files import read_json

Result = Segmentation | ClassSegmentation
_SETTINGS = "segment.json"
_MOST_SETTINGS = 1 << 30  # bytes: an entry an image


class _Settings(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    outputs: list[Any]  # names, also those that are no UTF-8
    queries: dict[Any, list[int]]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where results of one query go; of many, the folders of them."""

    out: Path
    overlay: Path | None
    probability: Path | None

    def given(self) -> dict[str, Path]:
        """Those that are asked for."""
        return {name: path for name, path in vars(self).items() if path is not None}

    def within(self, name: Path) -> Outputs:
        """One query's, of many."""
        return Outputs(**{kind: path and path / name for kind, path in vars(self).items()})

    def files(self, class_names: Sequence[str]) -> dict[str, list[Path]]:
        """One query's, by kind; a class alone has no name, "", and of several each has a probability of its own."""
        paths = {kind: [path] for kind, path in self.given().items()}
        if self.probability is not None:
            suffixes = [f".{name}.png" if name else ".png" for name in class_names]
            paths["probability"] = [self.probability.with_suffix(suffix) for suffix in suffixes]
        return paths

    def all_files(self, class_names: Sequence[str]) -> list[Path]:
        """One query's."""
        return [path for paths in self.files(class_names).values() for path in paths]

    def are_there(self, class_names: Sequence[str]) -> bool:
        """True if all of one query's are."""
        return all(path.exists() for path in self.all_files(class_names))

    def save(self, query: Path, image: np.ndarray, result: Result) -> dict[str, Any]:
        """Writes one query's, the mask last, and says what was found."""
        if self.overlay is not None:
            write_png(self.overlay, result.overlay(image))
        if isinstance(result, Segmentation):
            names, probabilities = [""], [result.probability]
        else:
            names, probabilities = list(result.class_names), list(result.probabilities[1:])
        for path, probability in zip(self.files(names).get("probability", ()), probabilities, strict=False):
            write_png(path, np.round(255 * probability).astype(np.uint8))
        result.save(self.out)
        scores = [result.score] if isinstance(result, Segmentation) else result.scores
        return self._record(query, labels_of(result), names, scores)

    def record(self, query: Path, class_names: Sequence[str]) -> dict[str, Any]:
        """The record that :meth:`save` returned, read again from the mask that it wrote."""
        labels = read_label_map(self.out)
        return self._record(query, labels if any(class_names) else labels > 0, class_names, read_scores(self.out))

    def _record(
        self, query: Path, labels: np.ndarray, class_names: Sequence[str], scores: Sequence[float] | None
    ) -> dict[str, Any]:
        names = [name or "object" for name in class_names]
        covers = {name: float((labels == i).mean()) for i, name in enumerate(names, 1)}
        known = scores if scores is not None and len(scores) == len(names) else [None] * len(names)
        scored = {name: score and round(score, 4) for name, score in zip(names, known, strict=True)}
        return {"query": str(query), "mask": str(self.out), "covers": covers, "scores": scored}


def labels_of(result: Result) -> np.ndarray:
    """Label map uint8 [H, W]; of one class 0 and 1."""
    return result.mask.astype(np.uint8) if isinstance(result, Segmentation) else result.label_map


def places_of(queries: Sequence[Path], outputs: Outputs) -> dict[Path, Outputs]:
    """The files of each of many images, named like it and in its sub-folder."""
    root = Path(os.path.commonpath([query.absolute().parent for query in queries]))
    return {query: outputs.within(query.absolute().relative_to(root).with_suffix(".png")) for query in queries}


def check_forms(outputs: Outputs, *, one: bool, video: bool) -> None:
    """Raises :class:`LDISError` where an output is a folder instead of a file, the reverse, or not of videos."""
    for flag, path in outputs.given().items():
        suffix = path.suffix.lower()
        there = os.path.exists(path) and not os.path.isdir(path)
        film = video and flag == "overlay" and suffix == ".mp4"
        if one and suffix != ".png":
            raise LDISError(f"--{flag}={path}: of one image, end the name in .png")
        if video and flag == "probability":
            raise LDISError("--probability: a video has none; leave it out")
        if not one and not film and (suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) or there):
            several = "a video gives many files (its overlay may be an .mp4)" if video else "there are several images"
            raise LDISError(f"--{flag}={path}: {several}; give a folder, such as --{flag}=masks")


def check_apart(
    inputs: Iterable[Path], flags: Mapping[str, Path], places: Mapping[Path, Outputs], names: Sequence[str]
) -> None:
    """Raises :class:`LDISError` where an output of a flag, or of one of many images, would replace another file."""
    taken = {os.path.realpath(path): "read by this command" for path in inputs}
    uses = [(flag, f"--{flag}", path) for flag, path in flags.items()]
    for query, place in places.items():
        uses += [(flag, f"--{flag} of {query}", path) for flag, paths in place.files(names).items() for path in paths]
    for flag, use, path in uses:
        if (other := taken.setdefault(os.path.realpath(path), use)) != use:
            raise LDISError(f"--{flag}={path}: is {other}, too; write the result elsewhere")


@dataclasses.dataclass(frozen=True)
class Folders:
    """Folders of results, and the file in the first of them that tells what made them.

    Attributes:
        outputs: the folders.
        made_by: what decides results, JSON-able.
        queries: of many images, each with its mask.
    """

    outputs: Outputs
    made_by: Mapping[str, Any]
    queries: Mapping[Path, Path] = dataclasses.field(default_factory=dict)

    def check(self, files: Mapping[str, Iterable[Path]]) -> None:
        """Raises :class:`LDISError` where other settings made what is there, or another program any of ``files``.

        Args:
            files: what will be written, by kind of output.
        """
        before = self._read() or {**self.made_by, "outputs": []}
        differ = [name for name in self.made_by if before.get(name) != self.made_by[name]]
        new = [kind for kind, folder in self.outputs.given().items() if self._relative(folder) not in before["outputs"]]
        foreign = [path for kind in new for path in files[kind] if path.exists()]
        if differ or foreign:
            where, how = (self.outputs.out, f" with these {list_names(differ)}") if differ else (foreign[0], "")
            raise LDISError(f"{where}: is there, and this command did not make it{how}; choose another folder")

    def changed(self) -> set[Path]:
        """The queries that are no more what they were when their masks were made."""
        before = self._known()
        now = {query: (self._relative(mask), self._print(query)) for query, mask in self.queries.items()}
        return {query for query, (mask, facts) in now.items() if before.get(mask, facts) != facts}

    def write(self) -> None:
        """Tells later commands; once prompts are read and results will come."""
        known = set((self._read() or {}).get("outputs", ())) | set(map(self._relative, self.outputs.given().values()))
        queries = self._known() | {self._relative(mask): self._print(query) for query, mask in self.queries.items()}
        write_json(self.outputs.out / _SETTINGS, {**self.made_by, "outputs": sorted(known), "queries": queries})

    def _known(self) -> dict[str, Any]:
        """Size and time of each query when its mask was made, by mask."""
        return (self._read() or {}).get("queries", {})

    @staticmethod
    def _print(query: Path) -> list[int]:
        stat = query.stat()
        return [stat.st_size, stat.st_mtime_ns]

    def _relative(self, folder: Path) -> str:
        return os.path.relpath(folder, self.outputs.out)

    def _read(self) -> dict[str, Any] | None:
        path = self.outputs.out / _SETTINGS
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = dict(read_json(path, _Settings, most=_MOST_SETTINGS))
        except LDISError:
            found = {}  # by no settings that we know
        return {**found, "outputs": [str(folder) for folder in found.get("outputs", ())]}


def digest(path: str | Path) -> str:
    """16 hex digits of a prompt's file, which has been read."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
