"""What a pickle would cost, before it is loaded."""

import io
import pickle
import pickletools

import numpy as np
import pytest

from ldis_jax.support.pickles import check_pickle
from tests.support import pickles

SHARED = tuple(range(100))
HONEST = {
    "a list that grows in parts": list(range(5000)),
    "names by class": {c: [f"2007_{i:06}" for i in range(500)] for c in range(20)},
    "values that come again": [{"shape": SHARED, "name": "a"} for _ in range(1000)],
    "arrays": {"a": np.arange(1000), "b": np.array(["x", "y"], object), "c": np.float32(1)},
    "sets": [{1, 2}, frozenset((3, (4, 5)))],
}


@pytest.mark.parametrize("value", HONEST.values(), ids=HONEST)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_check_pickle_accepts_what_programs_write(value, protocol):
    for text in (pickle.dumps(value, protocol), pickletools.optimize(pickle.dumps(value, protocol))):
        stream = io.BytesIO(text + b"behind it")
        check_pickle(stream)
        assert stream.read() == b"behind it"


def test_check_pickle_accepts_a_list_that_holds_itself():
    own = []
    own.append(own)
    check_pickle(io.BytesIO(pickle.dumps(own)))


@pytest.mark.parametrize("text", [pickles.MEMO, pickles.HASHES, b"\x80\x02" + pickles.doubled(40) + b"."])
def test_check_pickle_rejects_what_costs_more_than_its_size(text):
    assert len(text) < 500
    with pytest.raises(ValueError, match="more time or memory than"):
        check_pickle(io.BytesIO(text))


def test_check_pickle_counts_what_the_list_of_a_tuple_holds():
    """Which is hidden from who counts a list as it was when the memo got it."""
    text = b"\x80\x02)q\x00"
    for i in range(0, 100, 2):  # ]: a list of the last tuple twice; then tuple(list)
        text += b"0]q%c(h%ch%ce0" % (i + 1, i, i)
        text += b"cbuiltins\ntuple\nh%c\x85Rq%c" % (i + 1, i + 2)
    with pytest.raises(ValueError, match="more time or memory than"):
        check_pickle(io.BytesIO(text + b"."))


def test_check_pickle_rejects_forbidden_names():
    check_pickle(io.BytesIO(pickles.BYTEARRAY))
    with pytest.raises(ValueError, match="more time or memory than"):
        check_pickle(io.BytesIO(pickles.BYTEARRAY), ("bytearray",))


@pytest.mark.parametrize("text", [b"", b"N", b"0.", b"h\x05.", b"q\x00.", b"(q\x00.", b"e.", pickles.LONG_BYTES])
def test_check_pickle_rejects_damaged_pickles(text):
    with pytest.raises(ValueError, match=r"damaged|exhausted|remain|memo"):
        check_pickle(io.BytesIO(text))
