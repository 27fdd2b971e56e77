"""Episodes from a folder in PASCAL VOC's layout; see data/README.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldis_jax.errors import LDISError
from ldis_jax.files import StrPath
from ldis_jax.image_io import IGNORE_LABEL, read_image, read_label_map
from ldis_jax.input_pipeline.episodes import Episode, EpisodeRecord


class VOCFolder:
    """``JPEGImages/*.jpg|png``, ``SegmentationClass/*.png``, ``ImageSets/Segmentation/<split>.txt``, ``classes.json``.

    The index is built from the masks themselves, so it cannot disagree with them.
    """

    def __init__(self, root: StrPath, split: str, classes: Sequence[int] | None = None):
        """Reads every mask of the split once.

        Args:
            root: the folder.
            split: stem of a file in ``ImageSets/Segmentation``, one image name a line.
            classes: labels to draw episodes of; None is all but 0 and 255.

        Raises:
            LDISError: a missing or damaged file; a split without any of the classes.
        """
        self.root = Path(root)
        split_file = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        try:
            lines = split_file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise LDISError(f"{split_file}: cannot be read ({error}); see data/README.md for the layout") from None
        names = list(dict.fromkeys(name for line in lines if (name := line.strip())))
        self.class_names = self._read_class_names()

        with ThreadPoolExecutor() as pool:
            scans = tqdm(pool.map(self._scan, names), split_file.name, len(names), disable=len(names) <= 500)
            found = list(scans)
        wanted = set(range(1, IGNORE_LABEL)) if classes is None else set(classes) - {0, IGNORE_LABEL}
        self.classes_of = {n: kept for n, labels in zip(names, found, strict=True) if (kept := sorted(labels & wanted))}
        self.images_of: dict[int, list[str]] = {}
        for name, labels in self.classes_of.items():
            for label in labels:
                self.images_of.setdefault(label, []).append(name)
        if not self.images_of:
            asked = "1 to 254" if classes is None else f"{list(classes)}"
            raise LDISError(f"{split_file}: none of its {len(names)} masks shows a class of {asked}; choose others")
        self._queries: dict[int, list[str]] = {}

    @property
    def num_images(self) -> int:
        """Images that show at least one of the classes."""
        return len(self.classes_of)

    def draw_record(self, rng: np.random.Generator, num_shots: int) -> EpisodeRecord:
        """Draws an episode without reading its pictures.

        Raises:
            LDISError: no class has num_shots + 1 images.
        """
        queries = self._usable_queries(num_shots)
        query = queries[rng.integers(len(queries))]
        classes = [c for c in self.classes_of[query] if len(self.images_of[c]) > num_shots]
        class_id = classes[rng.integers(len(classes))]
        others = [name for name in self.images_of[class_id] if name != query]
        prompts = [others[i] for i in rng.choice(len(others), num_shots, replace=False)]
        return EpisodeRecord(class_id, self._class_name(class_id), query, tuple(prompts))

    def draw(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """One episode; see :class:`EpisodeSource`."""
        return self.episode(self.draw_record(rng, num_shots))

    def episode(self, record: EpisodeRecord) -> Episode:
        """Reads the pictures of a frozen episode, which need not be of this split.

        Raises:
            LDISError: a missing or damaged file, a mask of another size than its image, a mask without the class.
        """
        query, *prompts = (self._load(name, record.class_id) for name in (record.query, *record.prompts))
        return Episode(
            *query,
            prompt_images=tuple(image for image, _ in prompts),
            prompt_masks=tuple(mask for _, mask in prompts),
            class_id=record.class_id,
            class_name=record.class_name,
            name=record.query,
        )

    def _read_class_names(self) -> list[str]:
        path = self.root / "classes.json"
        if not path.exists():
            return []
        try:
            names = json.loads(path.read_text(encoding="utf-8"))["names"]
        except (OSError, ValueError, TypeError, KeyError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise LDISError(f'{path}: expected {{"names": ["background", ...]}}, one string a label value')
        return names

    def _class_name(self, class_id: int) -> str:
        return self.class_names[class_id] if class_id < len(self.class_names) else f"class {class_id}"

    def _mask_path(self, name: str) -> Path:
        return self.root / "SegmentationClass" / f"{name}.png"

    def _image_path(self, name: str) -> Path:
        path = self.root / "JPEGImages" / f"{name}.jpg"
        return path if path.exists() else path.with_name(f"{name}.png")

    def _scan(self, name: str) -> set[int]:
        if not self._image_path(name).is_file():
            raise LDISError(f"{self.root / 'JPEGImages' / name}.jpg: no such file, nor .png; add it or edit the split")
        return set(np.flatnonzero(np.bincount(read_label_map(self._mask_path(name)).ravel())).tolist())

    def _usable_queries(self, num_shots: int) -> list[str]:
        if num_shots not in self._queries:
            usable = {c for c, names in self.images_of.items() if len(names) > num_shots}
            if not usable:
                best = max(self.images_of, key=lambda c: len(self.images_of[c]))
                raise LDISError(
                    f"{self.root}: {num_shots}-shot episodes need {num_shots + 1} images of a class, the most frequent "
                    f"({self._class_name(best)}) has {len(self.images_of[best])}; add images or lower num_shots"
                )
            self._queries[num_shots] = [n for n, labels in self.classes_of.items() if not usable.isdisjoint(labels)]
        return self._queries[num_shots]

    def _load(self, name: str, class_id: int) -> tuple[np.ndarray, np.ndarray]:
        image_path, mask_path = self._image_path(name), self._mask_path(name)
        image, labels = read_image(image_path), read_label_map(mask_path)
        if image.shape[:2] != labels.shape:
            raise LDISError(
                f"{mask_path}: mask is {labels.shape[1]}x{labels.shape[0]}, its image {image_path} is "
                f"{image.shape[1]}x{image.shape[0]} (EXIF rotation applied); make them agree"
            )
        mask = (labels == class_id).astype(np.uint8)
        if not mask.any():
            raise LDISError(f"{mask_path}: no pixel of class {class_id}; freeze the episodes anew from this data")
        mask[labels == IGNORE_LABEL] = IGNORE_LABEL
        return image, mask
