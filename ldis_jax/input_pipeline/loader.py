"""Batches of training episodes, in an order that depends on nothing but the step.

Sample i of step s is episode s * G + i, for a global batch of G, whichever process makes it. Hence a run gives the same
global batches on any number of hosts, workers and restarts, and its whole state is the step.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from ldis_jax.datasets.scan import follow_parent
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.episodes import TrainEpisodes

# Batches made ahead. A 1-shot batch of 64 at 256 x 256 is 110 MB, so Grain's default of 500 would fill any host.
_THREADS = 4
_WORKER_BUFFER = 1


class TrainLoader(Iterator[dict[str, np.ndarray]]):
    """The batches that one process feeds to its devices, from step 0 on. Close it, or use it in a ``with``."""

    def __init__(
        self, source: TrainEpisodes, global_batch_size: int, *, num_workers: int = 0, rows: Sequence[int] | None = None
    ):
        """Starts nothing yet.

        Args:
            source: the episodes; its length bounds the number of steps.
            global_batch_size: G, over all processes.
            num_workers: worker processes; 0 and less use threads. Workers are spawned, so the program needs the usual
                ``if __name__ == "__main__"``.
            rows: the samples of each global batch that this process makes, ascending, see ``sharding.process_rows``;
                None is all.
        """
        share = _ProcessShare(source, global_batch_size, range(global_batch_size) if rows is None else rows)
        self._batches = grain.MapDataset.source(share).batch(len(share.rows))
        self._num_workers, self._step = num_workers, 0
        self._iterator: grain.DatasetIterator | None = None

    def __len__(self) -> int:
        """Steps from the first to the last, wherever the iterator is."""
        return len(self._batches)

    def __next__(self) -> dict[str, np.ndarray]:
        """The arrays of :func:`~ldis_jax.input_pipeline.episodes.network_arrays` with a leading batch axis."""
        if self._iterator is None:
            # A worker makes every n-th batch with one thread; without workers threads make whole batches.
            threads = 1 if self._num_workers > 0 else _THREADS
            read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
            dataset = self._batches[self._step :].to_iter_dataset(read_options)
            if self._num_workers > 0:
                if not flags.FLAGS.is_parsed():
                    flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which nobody parses outside of absl.app
                dataset = dataset.mp_prefetch(
                    grain.MultiprocessingOptions(self._num_workers, _WORKER_BUFFER), worker_init_fn=_start_worker
                )
            self._iterator = iter(dataset)
        batch = next(self._iterator)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """JSON-able: {"step": of the batch that comes next}."""
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`get_state` was called, on any number of processes and workers."""
        if not 0 <= state["step"] <= len(self):
            raise LDISError(f"data state: step {state['step']} of a run of {len(self)} steps; train for more steps")
        self.close()
        self._step = state["step"]

    def close(self) -> None:
        """Ends threads and workers; the next batch would start them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _ProcessShare:
    """The items at ``rows`` of every ``global_size``; ragged ends are left out."""

    def __init__(self, source: TrainEpisodes, global_size: int, rows: Sequence[int]):
        self._source, self._global_size, self.rows = source, global_size, rows

    def __len__(self) -> int:
        return len(self._source) // self._global_size * len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        step, sample = divmod(index, len(self.rows))
        return self._source[step * self._global_size + self.rows[sample]]


def _start_worker(index: int, count: int) -> None:
    """SIGTERM, which clusters send to every process of a job, is for the parent: it needs batches to its last step."""
    follow_parent(signal.SIGTERM)
