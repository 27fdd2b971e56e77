"""The tables of the two tiers name tests that there are, and the fast tier stays fast by its record."""

import pytest

from tests import tiers

TABLES = tiers.SLOW_FILES | tiers.SLOW_TESTS
FAST_SECONDS = 2 * 6 * 60  # of two workers


@pytest.mark.parametrize("path", sorted(TABLES))
def test_tiers_name_only_tests_that_there_are(path):
    assert (tiers.ROOT / "tests" / path).is_file()
    missing = [name for name in TABLES[path] if not tiers.is_defined(f"tests/{path}::{name}")]
    assert not missing and not (path in tiers.SLOW_FILES and path in tiers.SLOW_TESTS)


def test_tiers_is_slow_takes_a_name_for_all_its_parameters(monkeypatch):
    monkeypatch.setattr(tiers, "SLOW_FILES", {"a.py": ("test_x", "test_y[1]")})
    monkeypatch.setattr(tiers, "SLOW_TESTS", {"b.py": ("test_x", "TestZ")})
    fast = ["a.py::test_x", "a.py::test_x[1]", "a.py::test_y[1]", "b.py::test_x_too", "b.py::test_y", "c.py::test_x"]
    slow = ["a.py::test_x_too", "a.py::test_y[2]", "b.py::test_x", "b.py::test_x[1]", "b.py::TestZ::test_x"]
    assert [test for test in fast + slow if tiers.is_slow(f"tests/{test}")] == slow


def test_tiers_keep_the_fast_tier_fast():
    took = {test: seconds for test, seconds in tiers.seconds().items() if not tiers.is_slow(test)}
    assert sum(took.values()) < FAST_SECONDS


def test_tiers_store_keeps_what_did_not_run_and_forgets_what_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(tiers, "RECORD", tmp_path / "durations.json")
    here = "tests/test_tiers.py::test_tiers_keep_the_fast_tier_fast"
    tiers.store({here: 1.234, "tests/test_tiers.py::test_gone[1]": 2})
    tiers.store({"tests/test_layout.py::test_layout_keeps_the_root_small": 0.5})
    assert tiers.seconds() == {"tests/test_layout.py::test_layout_keeps_the_root_small": 0.5, here: 1.23}
