"""Fixed lists of episodes to evaluate on, read or painted when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, overload

from ldis_jax.input_pipeline.episodes import Episode, EpisodeRecord, EpisodeSource, episode_rng, episodes_hash
from ldis_jax.input_pipeline.indexed_source import IndexedSource

_T = TypeVar("_T")
_DRAWS = 20  # for each episode of a user's folder, of which most are of an image and a class drawn before


class FrozenEpisodes(Sequence[Episode]):
    """Episodes by index, with a hash of which they are; of files also their ``records``, else none."""

    def __init__(self, length: int, make: Callable[[int], Episode], digest: str, records: Sequence[EpisodeRecord] = ()):
        """Use one of the constructors below."""
        self._length, self._make, self.hash, self.records = length, make, digest, tuple(records)

    @classmethod
    def of_records(cls, source: IndexedSource, records: Sequence[EpisodeRecord]) -> FrozenEpisodes:
        """The episodes of a manifest."""
        return cls(len(records), lambda i: source.episode(records[i]), episodes_hash(records), records)

    @classmethod
    def of_draws(
        cls, source: EpisodeSource, length: int, num_shots: int, seed: int = 0, absent: float = 0.0
    ) -> FrozenEpisodes:
        """Episode i is the draw of (seed, i), in a share ``absent`` of them of what the query does not show.

        Draws of files are frozen by name, as a manifest; painted ones are hashed by their pixels. Of a user's folder,
        a class is asked once of an image: a few images make few episodes.
        """
        if absent:
            source.check_absent(num_shots)

        def draw(index: int, present: Callable[..., _T], missing: Callable[..., _T]) -> _T:
            rng = episode_rng(seed, index)
            return (missing if absent and rng.random() < absent else present)(rng, num_shots)

        if isinstance(source, IndexedSource):
            draws = length * (_DRAWS if source.few_images else 1)
            records = [draw(i, source.draw_record, source.draw_absent_record) for i in range(draws)]
            if source.few_images:
                once = {(record.query, record.class_id): record for record in reversed(records)}
                records = [record for record in records if once[record.query, record.class_id] is record][:length]
            return cls.of_records(source, records)

        def make(index: int) -> Episode:
            return draw(index, source.draw, source.draw_absent)

        return cls(length, make, _pixel_hash(make(i) for i in range(length)))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | list[Episode]:
        chosen = range(self._length)[index]
        return self._make(chosen) if isinstance(chosen, int) else [self._make(i) for i in chosen]


def _pixel_hash(episodes: Iterable[Episode]) -> str:
    digest = hashlib.sha256()
    for episode in episodes:
        arrays = (episode.query_image, episode.query_mask, *episode.prompt_images, *episode.prompt_masks)
        for array in arrays:
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
