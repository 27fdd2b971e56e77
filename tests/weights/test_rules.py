"""The name table: torch's names and layouts, total both ways."""

from __future__ import annotations

import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldis_jax.errors import LDISError
from ldis_jax.models import LDISModel
from ldis_jax.weights import fill, rules
from tests.reference import cases
from tests.reference.weights import arrays, as_weights


@pytest.fixture(scope="module")
def tower():
    return cases.model("plain").prompt_encoder


@pytest.fixture
def tensors(tower):
    return arrays(tower)


def test_to_torch_gives_torchs_layouts(tower, tensors):
    config = tower.config
    assert tensors["conv1.weight"].shape == (config.width, 3, config.patch_size, config.patch_size)
    linear = tower.transformer.resblocks[0].mlp.c_fc
    np.testing.assert_array_equal(tensors["transformer.resblocks.0.mlp.c_fc.weight"], linear.kernel[...].T)
    np.testing.assert_array_equal(tensors["conv1.weight"][5, 2, 1, 3], tower.conv1.kernel[1, 3, 2, 5])
    np.testing.assert_array_equal(tensors["ln_pre.weight"], tower.ln_pre.scale[...])


@pytest.mark.parametrize("name", cases.CONFIGS)
@pytest.mark.parametrize("network", ["unet", "vae", "prompt_encoder"])
def test_fill_gives_back_exactly_what_to_torch_gave(name, network):
    module = getattr(cases.model(name), network)
    tensors = arrays(module)
    again = fill(module, as_weights(tensors))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), tensors, arrays(again)))


@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_fill_widens_half_precision(tower, tensors, source):
    half = {name: np.asarray(jnp.asarray(tensor, source)) for name, tensor in tensors.items()}
    filled = arrays(fill(tower, as_weights(half)))
    for name, tensor in half.items():
        assert filled[name].dtype == np.float32
        np.testing.assert_array_equal(filled[name], tensor.astype(np.float32))


def test_fill_stores_parameters_in_the_asked_dtype(tower, tensors):
    filled = arrays(fill(tower, as_weights(tensors), dtype=jnp.bfloat16))
    assert {tensor.dtype.name for tensor in filled.values()} == {"bfloat16"}


def test_fill_puts_parameters_on_the_callers_device(tower, tensors):
    with jax.default_device(jax.devices()[1]):
        filled = fill(tower, as_weights(tensors))
    assert {device.id for x in jax.tree.leaves(nnx.state(filled)) for device in x.devices()} == {1}


def test_fill_refuses_a_missing_tensor(tower, tensors):
    del tensors["ln_pre.bias"]
    with pytest.raises(LDISError, match=r"here: missing tensor ln_pre\.bias"):
        fill(tower, as_weights(tensors))


def test_fill_refuses_an_unused_tensor(tower, tensors):
    tensors["visual.proj"] = np.zeros(3, np.float32)
    with pytest.raises(LDISError, match=r"here: unused tensor visual\.proj"):
        fill(tower, as_weights(tensors))


def test_fill_refuses_a_misshaped_tensor(tower, tensors):
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :2]
    with pytest.raises(
        LDISError, match=r"here: wrong tensor conv1\.weight \[40, 2, 8, 8\] \(expected \[40, 3, 8, 8\]\)"
    ):
        fill(tower, as_weights(tensors))


@pytest.mark.parametrize("dtype", ["int8", "float64"])
def test_fill_refuses_a_wrong_dtype(tower, tensors, dtype):
    tensors["ln_pre.bias"] = tensors["ln_pre.bias"].astype(dtype)
    with pytest.raises(LDISError, match=rf"here: wrong tensor ln_pre\.bias of type {dtype}"):
        fill(tower, as_weights(tensors))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_fill_refuses_what_is_not_finite(tower, tensors, value):
    tensors["ln_pre.bias"] = np.where(np.arange(tower.config.width) == 3, np.float32(value), tensors["ln_pre.bias"])
    with pytest.raises(LDISError, match=r"here: ln_pre\.bias \[40\] holds NaN or infinity"):
        fill(tower, as_weights(tensors))


def test_fill_takes_large_finite_values(tower, tensors):
    tensors["ln_pre.bias"] = np.full(tower.config.width, np.finfo(np.float32).max)
    np.testing.assert_array_equal(arrays(fill(tower, as_weights(tensors)))["ln_pre.bias"], tensors["ln_pre.bias"])


def test_fill_names_at_most_ten_tensors_and_counts_the_rest(tower, tensors):
    with pytest.raises(LDISError, match=r"here: missing tensor .* and \d+ more; ") as error:
        fill(tower, as_weights({}))
    assert str(error.value).count("[") == 10
    assert f"and {len(tensors) - 10} more" in str(error.value)


def test_initialise_draws_fresh_parameters():
    abstract = LDISModel.abstract(cases.CONFIGS["ldis1"]).unet
    first, again, other = (arrays(rules.initialise(abstract, seed)) for seed in (0, 0, 1))
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[name])
        if tensor.ndim == 1:
            assert (tensor == ("norm" in name and name.endswith("weight"))).all()
        else:
            assert (tensor != other[name]).any()
            assert tensor.std() * np.prod(tensor.shape[1:]) ** 0.5 == pytest.approx(1, abs=0.15), name
    assert (first["mid_block.resnets.0.conv1.weight"] != first["mid_block.resnets.1.conv1.weight"]).any()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such call")
def test_release_free_memory_returns_memory_between_what_stays():
    script = """
from ldis_jax.runtime.memory import release_free_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

blocks = [b"x" * 100_000 for _ in range(4000)]
blocks = blocks[::10]
before = resident()
release_free_memory()
print(before / resident())
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(found.stdout) > 1.5
