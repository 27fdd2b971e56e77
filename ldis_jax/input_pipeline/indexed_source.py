"""Draws of episodes from an index, wherever the images come from."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np

from ldis_jax.datasets.index import ImageIndex
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.episodes import BadFileError, Episode, EpisodeRecord
from ldis_jax.media.masks import IGNORE_LABEL

_MOST_IGNORED = 0.1  # of a query's pixels, where its mask is to tell what the image does not show


class IndexedSource(abc.ABC):
    """An :class:`EpisodeSource` over an :class:`ImageIndex`; a subclass reads images.

    Prompts are other images of the query's class; where the images are frames, of the query's video, too.

    Attributes:
        not_exhaustive: why a class that a mask does not have may still be in its image; empty where it cannot.
    """

    not_exhaustive = ""

    few_images = False  # may be, so that random episodes of them would often be the same

    def __init__(
        self,
        index: ImageIndex,
        class_names: Sequence[str],
        classes: Sequence[int] | None,
        where: str,
        queries: np.ndarray | None = None,
        prompts: np.ndarray | None = None,
        complete: ImageIndex | None = None,
    ):
        """Prepares draws; no image is read.

        Args:
            index: the images.
            class_names: by label value; may be short or empty.
            classes: labels to draw episodes of; None is all but 0 and 255.
            where: what error messages call the split.
            queries: bool [N], the images that are queries. None: each image is a query and a prompt.
            prompts: bool [N], the images that are prompts. None: those that are no queries.
            complete: the same images with all their labels, where ``index`` leaves some out.

        Raises:
            LDISError: no image shows any of the classes.
        """
        self.index, self.class_names, self._where = index, list(class_names), where
        wanted = ~np.isin(index.labels, (0, IGNORE_LABEL))
        if classes is not None:
            wanted &= np.isin(index.labels, np.array(classes, np.int64))
        # An entry is an image with one class in it; a group is the images that may prompt each other: of one class
        # and one video. Where images are no frames all are of "video" 0.
        self._rows, self._labels = index.rows()[wanted], index.labels[wanted]
        if not len(self._rows):
            asked = "1 to 254" if classes is None else f"{list(classes)}"
            raise LDISError(f"{where}: none of its {len(index)} masks shows a class of {asked}; choose others")
        key = index.videos[self._rows].astype(np.int64) * (self._labels.max() + 1) + self._labels
        keys, groups = np.unique(key, return_inverse=True)
        self._group_labels = keys % (self._labels.max() + 1)
        self._groups = groups.astype(np.int32)  # half the memory: Grain's workers each have a copy
        self._is_query = np.ones(len(self._rows), bool) if queries is None else queries[self._rows]
        is_prompt = self._is_query if queries is None else ~self._is_query
        if prompts is not None:
            is_prompt = prompts[self._rows]
        self._members = self._rows[is_prompt][np.argsort(self._groups[is_prompt], kind="stable")]
        self._sizes = np.bincount(self._groups[is_prompt], minlength=groups.max() + 1)
        self._ends = np.cumsum(self._sizes)
        self._num_prompts = self._sizes[self._groups] - is_prompt  # that an entry can have: not itself
        self._is_query_image = np.ones(len(index), bool) if queries is None else queries
        self._complete = complete or index
        self._queries: dict[int, np.ndarray] = {}
        self._absent: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._frames: dict[str, np.ndarray] = {}

    @abc.abstractmethod
    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """An image, uint8 [H, W, 3], and its labels, integers [H, W]."""

    @property
    def num_images(self) -> int:
        """Images that show at least one of the classes."""
        return len(np.unique(self._rows))

    @property
    def videos(self) -> dict[str, int]:
        """Number of frames by video; empty where images are no frames."""
        counts = np.bincount(self.index.videos, minlength=len(self.index.video_names))
        return {name.decode(): int(count) for name, count in zip(self.index.video_names, counts, strict=False)}

    def frame(self, video: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A frame of one of :attr:`videos`, counted from 0 in order of time: an image and its labels.

        Returns:
            (uint8 [H, W, 3], integers [H, W] with 255 for void).

        Raises:
            LDISError: a damaged file.
        """
        if video not in self._frames:
            rows = np.flatnonzero(self.index.video_names[self.index.videos] == video.encode())
            self._frames[video] = rows[np.argsort(self.index.frames[rows], kind="stable")]
        return self._read(self._name(self._frames[video][number]))

    def draw_record(self, rng: np.random.Generator, num_shots: int, query: int | None = None) -> EpisodeRecord:
        """Draws an episode without reading its images: a query evenly, then evenly one of its classes.

        Args:
            rng: the only source of randomness.
            num_shots: K.
            query: one of :meth:`queries`, in place of the draw.

        Raises:
            LDISError: no class has num_shots + 1 images, or, of videos, no class in a video has as many frames.
        """
        queries = self.queries(num_shots)
        query = queries[rng.integers(len(queries))] if query is None else query
        first, last = np.searchsorted(self._rows, (query, query + 1))
        entries = [i for i in range(first, last) if self._num_prompts[i] >= num_shots]
        return self._draw_prompts(rng, num_shots, entries[rng.integers(len(entries))])

    def _draw_prompts(self, rng: np.random.Generator, num_shots: int, entry: int) -> EpisodeRecord:
        """The episode of an entry, which is a query and one of its classes."""
        query, end = self._rows[entry], self._ends[self._groups[entry]]
        members = self._members[end - self._sizes[self._groups[entry]] : end]
        others = members[members != query]
        prompts = [self._name(others[i]) for i in rng.choice(len(others), num_shots, replace=False)]
        class_id = int(self._labels[entry])
        return EpisodeRecord(class_id, self._class_name(class_id), self._name(query), tuple(prompts))

    def draw_absent_record(self, rng: np.random.Generator, num_shots: int, query: int | None = None) -> EpisodeRecord:
        """Draws an episode of a class that the query does not show: evenly one of those, then K of its images.

        Every image may be a query, also one without any object; of videos, prompts are frames of one.

        Raises:
            LDISError: the masks do not tell what an image does not show, or every image shows all classes.
        """
        queries, groups = self._absent_draws(num_shots)
        query = queries[rng.integers(len(queries))] if query is None else query
        there = self._complete.labels[slice(*self._complete.offsets[query : query + 2])]
        groups = groups[~np.isin(self._group_labels[groups], there)]
        labels = np.unique(self._group_labels[groups])
        class_id = int(labels[rng.integers(len(labels))])
        groups = groups[self._group_labels[groups] == class_id]
        group = groups[rng.integers(len(groups))]
        members = self._members[self._ends[group] - self._sizes[group] : self._ends[group]]
        prompts = [self._name(members[i]) for i in rng.choice(len(members), num_shots, replace=False)]
        return EpisodeRecord(class_id, self._class_name(class_id), self._name(query), tuple(prompts), absent=True)

    def absent_queries(self, num_shots: int) -> np.ndarray:
        """Rows of the images that :meth:`draw_absent_record` can take, int64 [Q]; raises as it does."""
        return self._absent_draws(num_shots)[0]

    def _absent_draws(self, num_shots: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of queries, and the groups that have prompts enough."""
        if num_shots not in self._absent:
            if self.not_exhaustive:
                raise LDISError(f"{self._where}: cannot tell what an image does not show: {self.not_exhaustive}")
            index, rows = self._complete, self._complete.rows()
            groups = np.flatnonzero(self._sizes >= num_shots)
            labels = np.unique(self._group_labels[groups])
            shown = np.bincount(rows, np.isin(index.labels, labels), minlength=len(index))
            ignored = np.bincount(rows, index.pixels * (index.labels == IGNORE_LABEL), minlength=len(index))
            sizes = np.bincount(rows, index.pixels, minlength=len(index))
            usable = self._is_query_image & (shown < len(labels)) & (ignored <= _MOST_IGNORED * sizes)
            if not usable.any():
                raise LDISError(
                    f"{self._where}: every image that may be a query shows all of the classes; add images without one "
                    "of them (of folders with --queries=all: images without any object are never held out)"
                )
            self._absent[num_shots] = np.flatnonzero(usable), groups
        return self._absent[num_shots]

    def draw(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """One episode; see :class:`EpisodeSource`."""
        return self.episode(self.draw_record(rng, num_shots))

    def check_absent(self, num_shots: int) -> None:
        """See :class:`EpisodeSource`."""
        self._absent_draws(num_shots)

    def draw_absent(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """See :class:`EpisodeSource`."""
        return self.episode(self.draw_absent_record(rng, num_shots))

    def episode(self, record: EpisodeRecord) -> Episode:
        """Reads the images of a frozen episode.

        Raises:
            BadFileError: a missing or damaged file, a mask of another size than its image, a mask without the class, or
                with one that is to be absent.
        """
        query = self._load(record.query, record.class_id, shown=not record.absent)
        prompts = [self._load(name, record.class_id) for name in record.prompts]
        return Episode(
            *query,
            prompt_images=tuple(image for image, _ in prompts),
            prompt_masks=tuple(mask for _, mask in prompts),
            class_id=record.class_id,
            class_name=record.class_name,
            name=record.query,
            is_video=self.index.has_videos,
        )

    def _name(self, row: int) -> str:
        return self.index.names[row].decode()

    def _class_name(self, class_id: int) -> str:
        return self.class_names[class_id] if class_id < len(self.class_names) else f"class {class_id}"

    def queries(self, num_shots: int) -> np.ndarray:
        """Rows of the images that can be a query with this many prompts, for :meth:`draw_record`; int64 [Q].

        Raises:
            LDISError: as :meth:`draw_record`.
        """
        if num_shots not in self._queries:
            usable = self._is_query & (self._num_prompts >= num_shots)
            if not usable.any():
                best = np.argmax(np.where(self._is_query, self._num_prompts, -1))
                name = self._class_name(int(self._labels[best]))
                images = "frames of a class in one video" if self.index.has_videos else "images of a class"
                raise LDISError(
                    f"{self._where}: {num_shots}-shot episodes need {num_shots + 1} {images}, the most frequent "
                    f"({name}) has {self._num_prompts[best] + 1}; add images or lower num_shots"
                )
            self._queries[num_shots] = np.unique(self._rows[usable])
        return self._queries[num_shots]

    def _load(self, name: str, class_id: int, shown: bool = True) -> tuple[np.ndarray, np.ndarray]:
        try:
            image, labels = self._read(name)
        except LDISError as error:
            raise BadFileError(str(error)) from None
        mask = (labels == class_id).astype(np.uint8)
        if mask.any() != shown:
            why = f"mask {name}: {'no pixel' if shown else 'has pixels'} of class {class_id}"
            raise BadFileError(f"{self._where}: {why}; freeze the episodes again from this data")
        mask[labels == IGNORE_LABEL] = IGNORE_LABEL
        return image, mask
