"""What every fuzz test shares: how many cases there are, what a case may do, and bytes that are nearly right."""

import contextlib
import os
import time
import warnings
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ldis_jax.errors import LDISError

# How many times the cases of CI; more than one draws others in every run.
TIMES = int(os.environ.get("LDIS_JAX_FUZZ", "1"))
MOST_BYTES = 500 * 2**20  # that the process may grow by, in one test
_SLOWEST = 30  # seconds of a case


def cases(count, times=TIMES):
    """Decorates a test with the number of its cases in CI; slow ones stay as few in longer runs."""
    return settings(
        max_examples=count * times,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Tally:
    """Counts the cases of a test: right results, clear lines, and anything else, which fails it."""

    def __init__(self, folder):
        """``folder`` must be after every case what it was before."""
        self.folder = folder
        self.cases = self.lines = self.tracebacks = 0
        _reset_peak()
        self._start = _memory("VmRSS")

    @contextlib.contextmanager
    def case(self):
        """A case: its body gives a right result, or raises an ``LDISError`` of one line."""
        before, start = set(self.folder.rglob("*")), time.monotonic()
        self.cases += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except LDISError as error:
            self.line(str(error))
        except BaseException:
            self.tracebacks += 1
            raise
        assert set(self.folder.rglob("*")) == before, "left something behind"
        assert self.grown() < MOST_BYTES, f"{self.grown()} bytes more"
        assert time.monotonic() - start < _SLOWEST

    def line(self, text):
        """Counts what a user is told."""
        self.lines += 1
        self.said(text)

    @staticmethod
    def said(text):
        """It must be one line, warnings too."""
        assert text.strip() and "Traceback" not in text and len(text.strip().splitlines()) == 1, text

    def grown(self):
        """Bytes of the process at its largest since the test began, over those it had then."""
        return _memory("VmHWM") - self._start


def _memory(which):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    return 0


def _reset_peak():
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@st.composite
def mutated(draw, seeds):
    """One of the byte strings with a few bytes changed, removed, put in or cut off, more often in the header."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        last = max(len(content) - 1, 0)
        at = draw(st.one_of(st.integers(0, min(last, 80)), st.integers(0, last)))
        match draw(st.sampled_from(("set", "set", "number", "remove", "insert", "repeat", "cut"))):
            case "set":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                value = draw(st.sampled_from((0, 1, 127, 128, 255, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)))
                order = draw(st.sampled_from(("little", "big")))
                content[at : at + 4] = value.to_bytes(4, order)
            case "remove":
                del content[at : at + draw(st.integers(1, 64))]
            case "insert":
                content[at:at] = draw(st.binary(max_size=16))
            case "repeat":
                content[at:at] = content[at : at + draw(st.integers(1, 64))]
            case "cut":
                del content[at:]
    return bytes(content)


_NUMBERS = st.one_of(st.sampled_from((0, -1, 1, 2**31, 2**63, 10**30, 1e308, -0.5)), st.integers(), st.floats())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def altered(draw, document):
    """A JSON document with a value somewhere in it replaced, removed or added."""
    if isinstance(document, dict) and document and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(document)))
        rest = {name: value for name, value in document.items() if name != key}
        match draw(st.sampled_from(("inside", "inside", "remove", "rename"))):
            case "inside":
                return {**document, key: draw(altered(document[key]))}
            case "remove":
                return rest
            case "rename":
                return {**rest, draw(st.text(max_size=5)): document[key]}
    if isinstance(document, list) and document and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(document) - 1))
        return [*document[:at], draw(altered(document[at])), *document[at + 1 :]]
    return draw(VALUES)
