"""Pickles from a download name files, and do nothing else."""

import os
import pickle
import struct
from collections import defaultdict

import numpy as np
import pytest

from ldis_jax.datasets.meta_files import read_meta
from ldis_jax.errors import LDISError
from tests.support import pickles

CLASSES = {1: ["b", "a"], 2: ["c", "a"], "x": []}


def pair(first, second):
    array = np.empty(2, dtype=object)
    array[0], array[1] = first, second
    return array


def scalar(value):
    array = np.empty((), dtype=object)
    array[()] = value
    return array


@pytest.mark.parametrize(
    "value",
    [
        pair([("i.jpg", "m.png")], CLASSES),
        pair(np.arange(5), CLASSES),
        pair({3, 4}, {np.int64(k): v for k, v in enumerate(CLASSES.values())}),
        pair(None, {1: np.array(["b", "a"]), 2: np.array(["c"], dtype=object)}),
        pair(None, {1: [np.str_("b"), "a"], 2: ["c"]}),
        scalar(([], CLASSES)),
    ],
)
def test_read_meta_reads_what_numpy_saves(tmp_path, value):
    np.save(tmp_path / "m.npy", value, allow_pickle=True)
    assert read_meta(tmp_path / "m.npy") == ["a", "b", "c"]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_read_meta_reads_plain_pickles_of_any_age(tmp_path, protocol):
    (tmp_path / "m.npy").write_bytes(pickle.dumps(([], CLASSES), protocol))
    assert read_meta(tmp_path / "m.npy") == ["a", "b", "c"]


def test_read_meta_knows_the_module_names_of_numpy_1(tmp_path):
    # Protocol 2 spells bytes as a call of _codecs.encode, which is refused; 3 is what numpy writes.
    data = pickle.dumps(([], {1: np.array(["a", "b"]), 2: [np.str_("c")]}), 3)
    assert b"numpy._core.multiarray" in data
    (tmp_path / "m.npy").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_meta(tmp_path / "m.npy") == ["a", "b", "c"]


class Run:
    """Reduces to a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (eval, "builtins.eval"),
        (getattr, "builtins.getattr"),
        (np.load, "numpy.load"),
        (np.fromfile, "numpy"),
        (defaultdict, "collections.defaultdict"),
        (pickle.loads, "_pickle.loads"),
    ],
)
@pytest.mark.parametrize("npy", [False, True])
def test_read_meta_runs_nothing_of_malicious_pickles(tmp_path, function, name, npy):
    touched = tmp_path / "touched"
    value = ([Run(function, f"touch {touched}")], CLASSES)
    path = tmp_path / "m.npy"
    if npy:
        np.save(path, pair(*value), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(value))
    with pytest.raises(LDISError, match=rf"m\.npy, .*: the pickle asks for {name}.*refused") as info:
        read_meta(path)
    assert "\n" not in str(info.value) and not touched.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle",
        pickle.dumps([1]),
        pickle.dumps((1, 2)),
        pickle.dumps(([], {1: 5})),
        pickle.dumps(([], CLASSES))[:-20],
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + b"{'descr': __import__('os'), }".ljust(60),
        pickle.dumps(np.dtype("i4,f4")),
        pickle.dumps(([], {1: np.array([object()], object)}))[:-1],
    ],
)
def test_read_meta_reports_garbage_in_one_line(tmp_path, data):
    (tmp_path / "m.npy").write_bytes(data)
    with pytest.raises(LDISError, match=r"m\.npy, a pair .*: cannot be read") as info:
        read_meta(tmp_path / "m.npy")
    assert "\n" not in str(info.value)


def test_read_meta_refuses_plain_arrays(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(3))
    with pytest.raises(LDISError, match=r"a pair .* cannot be read"):
        read_meta(tmp_path / "m.npy")


@pytest.mark.parametrize("value", [pickles.MEMO, pickles.HASHES, pickles.LONG_BYTES], ids=["memo", "hashes", "bytes"])
@pytest.mark.parametrize("npy", [False, True])
def test_read_meta_takes_no_gigabytes_for_a_few_bytes_and_ends(tmp_path, value, npy):
    path = tmp_path / "meta_train.npy"
    header = b""
    if npy:
        np.save(path, scalar(None))
        header = path.read_bytes()[:128]
    path.write_bytes(header + value)
    with pytest.raises(LDISError, match=r"cannot be read .*(more time or memory|remain)") as error:
        read_meta(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [["a"], ("a",), None, 1.5, b"a", [["a"] * 3] * 3])
def test_read_meta_names_are_text_or_whole_numbers(tmp_path, name):
    (tmp_path / "m.npy").write_bytes(pickle.dumps((None, {1: ["a", 7]})))
    assert read_meta(tmp_path / "m.npy") == ["7", "a"]
    (tmp_path / "m.npy").write_bytes(pickle.dumps((None, {1: [name]})))
    with pytest.raises(LDISError, match="cannot be read"):
        read_meta(tmp_path / "m.npy")
