"""The fuzz tier's fixtures and its figures, which stand below the tests' results."""

import pytest
from PIL import Image

pytest.importorskip("hypothesis")

from tests.fuzz.tally import TIMES, Tally


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """A header may claim 20 million pixels: memory is bounded by the limit, whatever it is."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000_000)


@pytest.fixture
def tally(tmp_path, record_property):
    """Counts the cases of a test."""
    tally = Tally(tmp_path)
    yield tally
    record_property("fuzz", (tally.cases, tally.lines, tally.tracebacks, tally.grown()))


def pytest_terminal_summary(terminalreporter):
    """Cases, clear lines, tracebacks and the largest growth of memory, of every test and of all."""
    found = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, figures in getattr(report, "user_properties", ()):
                if name == "fuzz" and report.when == "teardown":
                    found[report.nodeid] = figures
    if not found:
        return
    rows = {name.rpartition("::")[2]: figures for name, figures in sorted(found.items())}
    columns = list(zip(*rows.values(), strict=True))
    rows[f"all, times {TIMES}"] = (*map(sum, columns[:3]), max(columns[3]))
    terminalreporter.section("fuzz")
    for name, (cases, lines, tracebacks, grown) in rows.items():
        figures = f"{cases:>7} cases {lines:>7} clear lines {tracebacks:>3} tracebacks {grown / 2**20:>5.0f} MiB more"
        terminalreporter.line(f"{name:<45} {figures}")
