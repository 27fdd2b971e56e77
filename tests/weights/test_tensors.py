"""Lazy tensors and the two file forms under them."""

from __future__ import annotations

import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ldis_jax.errors import LDISError
from ldis_jax.weights.network_files import open_file
from ldis_jax.weights.tensors import LazyTensor, Weights, cast, from_array, open_safetensors, write_safetensors

ARRAYS = {
    "b.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a": np.array(1.5, np.float16),
    "c": np.linspace(-1, 1, 7).astype(ml_dtypes.bfloat16),
    "empty": np.zeros((0, 3), np.float32),
}


def write(path, arrays):
    written = []
    write_safetensors(path, {name: from_array(array) for name, array in arrays.items()}, written.append)
    return sum(written)


def test_write_safetensors_writes_what_the_library_reads(tmp_path):
    assert write(tmp_path / "x.safetensors", ARRAYS) == sum(array.nbytes for array in ARRAYS.values())
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_open_safetensors_reads_what_the_library_writes(tmp_path):
    save_file(ARRAYS, tmp_path / "x.safetensors")
    weights = open_safetensors(tmp_path / "x.safetensors")
    assert weights.where == str(tmp_path / "x.safetensors")
    for name, array in ARRAYS.items():
        tensor = weights.tensors[name]
        assert (tensor.shape, tensor.dtype, tensor.nbytes) == (
            array.shape,
            array.dtype.name,
            array.nbytes,
        )
        np.testing.assert_array_equal(tensor.read(), array)


def test_write_safetensors_holds_one_tensor_at_a_time(tmp_path):
    size = 1_000_000
    tensors = {str(i): LazyTensor((size,), "float32", lambda: np.ones(size, np.float32)) for i in range(20)}
    tracemalloc.start()
    write_safetensors(tmp_path / "x.safetensors", tensors, lambda _: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 4 * size


def test_write_safetensors_leaves_nothing_when_it_fails_in_the_middle(tmp_path):
    def fail():
        raise LDISError("unreadable")

    tensors = {"a": from_array(np.ones(5, np.float32)), "b": LazyTensor((5,), "float32", fail)}
    with pytest.raises(LDISError, match="unreadable"):
        write_safetensors(tmp_path / "x.safetensors", tensors, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_write_safetensors_writes_transposed_arrays_in_their_own_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write(tmp_path / "x.safetensors", {"a": array.T})
    np.testing.assert_array_equal(load_file(tmp_path / "x.safetensors")["a"], array.T)


@pytest.mark.parametrize("index", [0, (slice(None), 1), (slice(None), slice(None), 0), slice(0, 1)])
def test_lazy_tensor_indexing_is_lazy_and_numpys(index):
    reads = []
    tensor = LazyTensor((2, 3, 4), "float32", lambda: reads.append(1) or ARRAYS["b.weight"])
    part = tensor[index]
    assert not reads
    assert part.shape == ARRAYS["b.weight"][index].shape
    np.testing.assert_array_equal(part.read(), ARRAYS["b.weight"][index])


def test_cast():
    half = cast(from_array(ARRAYS["b.weight"]), "bfloat16")
    assert (half.dtype, half.nbytes, half.read().dtype) == ("bfloat16", 48, ml_dtypes.bfloat16)
    assert cast(half, "float32").read().dtype == np.float32


def test_rename():
    weights = Weights({name: from_array(array) for name, array in ARRAYS.items()}, "here")
    renamed = weights.rename(lambda name: None if name == "empty" else f"x.{name}")
    assert renamed.tensors.keys() == {"x.a", "x.b.weight", "x.c"}
    with pytest.raises(LDISError, match=r"here: .* are the same parameter"):
        weights.rename(lambda name: "same")


def header(length, text):
    return length.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        header(10**12, b"{}"),
        header(5, b"{}   rest"),
        header(40, json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()),
        # A tensor of 10^12 elements, with and without the offsets that it would need.
        *(
            header(len(text), text) + bytes(8)
            for text in (
                json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, end]}}).encode()
                for end in (8, 4 * 10**12)
            )
        ),
    ],
)
def test_open_file_refuses_a_lying_header_in_one_clear_line(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(LDISError, match=r"x.safetensors: cannot be read \(.+\)") as error:
        open_file(path)
    assert "\n" not in str(error.value)
