import threading
import time

import numpy as np
import pytest

from ldis_jax import LDISError
from ldis_jax.inference.batches import map_ahead, predict_batches


def load(item):
    """Item i has i % 3 queries; what comes first takes longest."""
    time.sleep(0.002 * (7 - item % 7))
    return [((item, i), {"x": np.full(2, 10.0 * item + i)}) for i in range(item % 3)]


def test_predict_batches_keeps_the_order_of_queries_and_one_batch_size():
    batches = []

    def predict(arrays):
        batches.append(arrays["x"])
        return arrays["x"] + 0.5

    found = list(predict_batches(predict, range(14), load, 4))
    expected = [(item, i) for item in range(14) for i in range(item % 3)]
    assert [query for query, _ in found] == expected and len(expected) == 13
    for (item, i), r in found:
        np.testing.assert_array_equal(r, [10 * item + i + 0.5] * 2)
    assert [batch.shape for batch in batches] == [(4, 2)] * 4
    np.testing.assert_array_equal(batches[-1], [batches[-1][0]] * 4)  # filled up


def test_predict_batches_starts_the_next_batch_before_it_looks_at_results():
    class Running:
        """As an array of JAX: it is waited for where it becomes one of NumPy."""

        def __init__(self, number):
            self.number = number

        def __array__(self, dtype=None, copy=None):
            events.append(f"wait for {self.number}")
            return np.zeros((2, 1))

    events: list[str] = []

    def predict(arrays):
        events.append(f"start {len([e for e in events if e.startswith('start')])}")
        return Running(int(events[-1].split()[1]))

    for _ in predict_batches(predict, range(5), lambda i: [(i, {"x": np.zeros(1)})], 2):
        pass
    assert events == ["start 0", "start 1", "wait for 0", "start 2", "wait for 1", "wait for 2"]


def test_predict_batches_predicts_nothing_of_nothing():
    assert list(predict_batches(lambda _: 1 / 0, [], load, 4)) == []


def test_map_ahead_runs_calls_ahead_but_not_further():
    done, drawn = threading.Semaphore(0), []

    def function(i):
        done.release()
        return i

    results = map_ahead(function, (drawn.append(i) or i for i in range(20)), 3)
    for expected in range(16):
        assert next(results) == expected
        assert done.acquire(timeout=10) and len(drawn) == expected + 4
    assert list(results) == [16, 17, 18, 19]


def test_map_ahead_raises_an_error_in_its_place_and_ends_the_threads():
    def function(i):
        if i == 3:
            raise LDISError("item 3: bad")
        return i

    before, results = threading.active_count(), map_ahead(function, range(100), 5)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LDISError, match="item 3: bad"):
        next(results)
    assert threading.active_count() == before
