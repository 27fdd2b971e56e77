"""Episodes: one query and K prompts of one class; drawn for training, frozen for evaluation."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic's, before Python 3.12
    Protocol,
)

import numpy as np
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.transforms import RESCALE, crop_prompt, eval_image, eval_mask, train_transform
from ldis_jax.media.masks import IGNORE_LABEL
from ldis_jax.support.files import StrPath
from ldis_jax.support.json_files import read_json

_MAX_DRAWS = 100
_MOST_BYTES = 1 << 28  # of a manifest
_LOGGER = logging.getLogger(__name__)


class BadFileError(LDISError):
    """A file of an episode is missing, damaged or not what the index says; other episodes may do without it."""


def episode_rng(seed: int, index: int) -> np.random.Generator:
    """The generator of episode ``index``: a pure function of both numbers, whoever asks and in whatever order."""
    return np.random.Generator(np.random.Philox(key=[seed, index]))


@dataclasses.dataclass(frozen=True)
class Episode:
    """Images at their own sizes: uint8 [H, W, 3] RGB, and uint8 [H, W] masks in {0, 1, 255}."""

    query_image: np.ndarray
    query_mask: np.ndarray
    prompt_images: tuple[np.ndarray, ...]
    prompt_masks: tuple[np.ndarray, ...]
    class_id: int
    class_name: str
    name: str  # of the query, for logs and images
    is_video: bool = False  # prompts are other frames of the query's video
    augment: bool = True  # whether training may change it: not where that could change its class


class EpisodeSource(Protocol):
    """Anything that episodes can be drawn from; picklable, because Grain's workers get a copy."""

    @property
    def num_images(self) -> int:
        """How many images can be a query."""

    def draw(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """One episode: a query image drawn evenly, a class evenly of those in it, K other images of that class."""

    def check_absent(self, num_shots: int) -> None:
        """Raises :class:`LDISError` where :meth:`draw_absent` cannot be sure, or has nothing to draw."""

    def draw_absent(self, rng: np.random.Generator, num_shots: int) -> Episode:
        """One episode whose query does not show the prompts' class: its mask holds no 1."""


def network_arrays(episode: Episode, image_size: int, tile: float = 1.0) -> dict[str, np.ndarray]:
    """An episode as the network takes it, under evaluation's transform.

    Args:
        episode: what is read.
        image_size: S.
        tile: of the task; prompts are cropped by it, the query is not.

    Returns:
        ``query_image`` float32 [S, S, 3] and ``prompt_images`` float32 [K, S, S, 3], in [-1, 1]; ``query_mask`` uint8
        [S, S] and ``prompt_masks`` uint8 [K, S, S], in {0, 1, 255}.
    """
    return {
        "query_image": eval_image(episode.query_image, image_size),
        "query_mask": eval_mask(episode.query_mask, image_size),
        **prompt_arrays(episode, image_size, tile),
    }


def prompt_arrays(episode: Episode, image_size: int, tile: float = 1.0) -> dict[str, np.ndarray]:
    """The prompts' part of :func:`network_arrays`."""
    prompts = [
        crop_prompt(image, mask, tile) for image, mask in zip(episode.prompt_images, episode.prompt_masks, strict=True)
    ]
    return {
        "prompt_images": np.stack([eval_image(image, image_size) for image, _ in prompts]),
        "prompt_masks": np.stack([eval_mask(mask, image_size) for _, mask in prompts]),
    }


class TrainEpisodes:
    """A Grain data source: item i is a training episode, a pure function of ``(seed, i)``."""

    def __init__(
        self,
        source: EpisodeSource,
        num_shots: int,
        image_size: int,
        seed: int,
        length: int,
        augment: bool = True,
        rescale: tuple[float, float] = RESCALE,
        tile: float = 1.0,
        absent: float = 0.0,
    ):
        """Binds a source to sizes and a seed.

        Args:
            source: where episodes come from.
            num_shots: K.
            image_size: S.
            seed: not negative.
            length: how many episodes there are: steps x global batch size.
            augment: false uses evaluation's transform, with the same draws of images; so do episodes that say so. Tiles
                are random all the same.
            rescale: of :func:`~ldis_jax.input_pipeline.transforms.train_transform`.
            tile: likewise.
            absent: the share of episodes whose query does not show the prompts' class.

        Raises:
            LDISError: the source has no such episodes.
        """
        if absent:
            source.check_absent(num_shots)
        self.absent = absent
        self.source, self.num_shots, self.image_size = source, num_shots, image_size
        self.seed, self.length, self.augment = seed, length, augment
        self.rescale, self.tile = rescale, tile
        self.bad_files: Counter[str] = Counter()  # how often each error of a file was met, in this process

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of :func:`network_arrays`, and ``bad_files``, int32: how many bad files its draws met.

        Where a prompt shows no object, because the crop missed it, the episode is drawn again from the same generator;
        so it is where a file is bad: a long run must not end for one image. The first time, that is logged.

        Raises:
            LDISError: no usable episode in 100 draws.
        """
        index = range(self.length)[index]
        rng, bad = episode_rng(self.seed, index), 0
        draw = self.source.draw_absent if self.absent and rng.random() < self.absent else self.source.draw
        for _ in range(_MAX_DRAWS):
            try:
                episode = draw(rng, self.num_shots)
            except BadFileError as error:
                last = str(error)
                bad += 1
                self.bad_files[last] += 1
                if self.bad_files[last] == 1:
                    _LOGGER.warning("skipped, and drawn again: %s", last)
                continue
            arrays = self._arrays(episode, rng)
            if (arrays["prompt_masks"] == 1).any(axis=(1, 2)).all():
                return arrays | {"bad_files": np.array(bad, np.int32)}
            last = f"class {episode.class_name}, query {episode.name}"
        raise LDISError(
            f"episode {index}: {_MAX_DRAWS} draws gave no prompt that shows its object (the last: {last}); leave out "
            f"classes with tiny objects, raise image_size, or mend bad files"
        )

    def _arrays(self, episode: Episode, rng: np.random.Generator) -> dict[str, np.ndarray]:
        augment = self.augment and episode.augment
        if not augment and self.tile == 1:
            return network_arrays(episode, self.image_size)
        transform = functools.partial(
            train_transform,
            size=self.image_size,
            rng=rng,
            flip=augment and not episode.is_video,
            distort=augment,
            rescale=self.rescale if augment else (1.0, 1.0),
            tile=self.tile,
        )
        return _arrays(episode, transform)


def _arrays(
    episode: Episode, transform: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    query_image, query_mask = transform(episode.query_image, episode.query_mask)
    prompts = [transform(*prompt) for prompt in zip(episode.prompt_images, episode.prompt_masks, strict=True)]
    prompt_images, prompt_masks = zip(*prompts, strict=True)
    return {
        "query_image": query_image,
        "query_mask": query_mask,
        "prompt_images": np.stack(prompt_images),
        "prompt_masks": np.stack(prompt_masks),
    }


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """A frozen episode: names only."""

    class_id: int
    class_name: str
    query: str
    prompts: tuple[str, ...]
    absent: bool = False  # the query does not show the class

    def to_json(self) -> dict[str, Any]:
        """The entry of a manifest; only absent objects have the key "absent"."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "absent" or value}


def _usable(entry: _Entry) -> _Entry:
    if entry["class_id"] == IGNORE_LABEL or entry["query"] in entry["prompts"]:
        raise ValueError(f"class {IGNORE_LABEL} is none, and no query is a prompt of its own")
    return entry


class _Entry(TypedDict):
    class_id: Annotated[int, Field(gt=0)]
    class_name: str
    query: str
    prompts: Annotated[list[str], Field(min_length=1)]
    absent: NotRequired[bool]


_Manifest = Annotated[list[Annotated[_Entry, AfterValidator(_usable)]], Field(min_length=1)]


def read_manifest(path: StrPath) -> list[EpisodeRecord]:
    """The frozen episodes of a file, a JSON list of {"class_id", "class_name", "query", "prompts": [...]}.

    An episode whose query does not show the class has "absent": true, too.

    Raises:
        LDISError: missing, not JSON, empty, or an entry with wrong fields.
    """
    form = '{"class_id": 1, "class_name": ..., "query": name, "prompts": [name, ...]}'
    entries = read_json(path, _Manifest, form=f"an episode manifest, a list of {form}", most=_MOST_BYTES)
    return [
        EpisodeRecord(e["class_id"], e["class_name"], e["query"], tuple(e["prompts"]), e.get("absent", False))
        for e in entries
    ]


def episodes_hash(records: Sequence[EpisodeRecord]) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON: equal exactly where the episodes are, in the same order."""
    canonical = json.dumps([r.to_json() for r in records], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
