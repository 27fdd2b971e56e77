"""The name table: torch's names and layouts, total both ways."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.convert import fill, rules, to_torch
from ldis_jax.errors import LDISError
from ldis_jax.models import LDISModel
from tests.reference import cases


@pytest.fixture(scope="module")
def tower():
    return cases.model("plain").prompt_encoder


@pytest.fixture
def tensors(tower):
    return dict(to_torch(tower))


def test_layouts_are_torchs(tower, tensors):
    config = tower.config
    assert tensors["conv1.weight"].shape == (config.width, 3, config.patch_size, config.patch_size)
    linear = tower.transformer.resblocks[0].mlp.c_fc
    np.testing.assert_array_equal(tensors["transformer.resblocks.0.mlp.c_fc.weight"], linear.kernel[...].T)
    np.testing.assert_array_equal(tensors["conv1.weight"][5, 2, 1, 3], tower.conv1.kernel[1, 3, 2, 5])
    np.testing.assert_array_equal(tensors["ln_pre.weight"], tower.ln_pre.scale[...])


@pytest.mark.parametrize("name", cases.CONFIGS)
@pytest.mark.parametrize("network", ["unet", "vae", "prompt_encoder"])
def test_there_and_back_is_exact(name, network):
    module = getattr(cases.model(name), network)
    tensors = dict(to_torch(module))
    again = fill(module, tensors, "here")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), tensors, dict(to_torch(again))))


@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_half_precision_is_widened(tower, tensors, source):
    half = {name: np.asarray(jnp.asarray(tensor, source)) for name, tensor in tensors.items()}
    filled = dict(to_torch(fill(tower, half, "here")))
    for name, tensor in half.items():
        assert filled[name].dtype == np.float32
        np.testing.assert_array_equal(filled[name], tensor.astype(np.float32))


def test_parameters_are_stored_in_the_asked_dtype(tower, tensors):
    filled = dict(to_torch(fill(tower, tensors, "here", dtype=jnp.bfloat16)))
    assert {tensor.dtype.name for tensor in filled.values()} == {"bfloat16"}


def test_missing(tower, tensors):
    del tensors["ln_pre.bias"]
    with pytest.raises(LDISError, match=r"here: missing tensor ln_pre\.bias"):
        fill(tower, tensors, "here")


def test_unused(tower, tensors):
    tensors["visual.proj"] = np.zeros(3, np.float32)
    with pytest.raises(LDISError, match=r"here: unused tensor visual\.proj"):
        fill(tower, tensors, "here")


def test_misshaped(tower, tensors):
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :2]
    with pytest.raises(
        LDISError, match=r"here: wrong tensor conv1\.weight \[40, 2, 8, 8\] \(expected \[40, 3, 8, 8\]\)"
    ):
        fill(tower, tensors, "here")


@pytest.mark.parametrize("dtype", ["int8", "float64"])
def test_wrong_dtype(tower, tensors, dtype):
    tensors["ln_pre.bias"] = tensors["ln_pre.bias"].astype(dtype)
    with pytest.raises(LDISError, match=rf"here: wrong tensor ln_pre\.bias of type {dtype}"):
        fill(tower, tensors, "here")


def test_one_parameter_under_two_names(tower, tensors):
    tensors["old"] = tensors["ln_pre.bias"]
    with pytest.raises(LDISError, match=r"same parameter"):
        fill(tower, tensors, "here", rename=lambda name: "ln_pre.bias" if name == "old" else name)


def test_renamed_to_nothing_is_skipped(tower, tensors):
    extra = tensors | {"proj": np.zeros(3, np.float32)}
    filled = dict(to_torch(fill(tower, extra, "here", rename=lambda name: None if name == "proj" else name)))
    assert filled.keys() == tensors.keys()
    assert all((filled[name] == tensor).all() for name, tensor in tensors.items())


def test_fresh_parameters():
    abstract = LDISModel.abstract(cases.CONFIGS["ldis1"]).unet
    first, again, other = (dict(to_torch(rules.initialise(abstract, seed))) for seed in (0, 0, 1))
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[name])
        if tensor.ndim == 1:
            assert (tensor == ("norm" in name and name.endswith("weight"))).all()
        else:
            assert (tensor != other[name]).any()
            assert tensor.std() * np.prod(tensor.shape[1:]) ** 0.5 == pytest.approx(1, abs=0.15), name
    assert (first["mid_block.resnets.0.conv1.weight"] != first["mid_block.resnets.1.conv1.weight"]).any()
