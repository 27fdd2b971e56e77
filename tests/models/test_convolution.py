"""Every way of computing a convolution gives what XLA's own gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldis_jax.flops import count_flops
from ldis_jax.models import convolution
from ldis_jax.models.convolution import PAD_BOTH, PAD_RIGHT_BELOW, Downsample2D, Upsample2D, conv, upsample_nearest
from tests.reference import cases


def layer(kind=conv, *args, dtype=jnp.float32):
    return kind(6, *args, dtype=dtype, rngs=nnx.Rngs(0))


def plain(module: nnx.Conv, x):
    return nnx.Conv.__call__(module, x)


@pytest.fixture
def patches(monkeypatch):
    """Takes patches wherever that is possible."""
    monkeypatch.setattr(convolution, "_MANY_CHANNELS", 1)


@pytest.mark.parametrize("shape", [(2, 4, 4, 6), (1, 3, 5, 6), (2, 1, 1, 6)])
def test_patches(patches, shape):
    module, x = layer(conv, 7), cases.normal("x", *shape)
    np.testing.assert_allclose(module(jnp.asarray(x)), plain(module, x), atol=1e-5)
    assert "stablehlo.convolution" not in jax.jit(module).lower(x).as_text()


def test_gradients_of_patches(patches):
    module, x = layer(conv, 7), jnp.asarray(cases.normal("x", 2, 4, 4, 6))
    graph, state = nnx.split(module)

    def gradients(run):
        return jax.grad(lambda state, x: jnp.sum(jnp.sin(run(nnx.merge(graph, state), x))), (0, 1))(state, x)

    ours, theirs = gradients(lambda module, x: module(x)), gradients(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("arguments", [(7, 1), (7, 3, 2, PAD_BOTH), (7, 3, 1, PAD_RIGHT_BELOW)])
def test_what_patches_do_not_cover(patches, arguments):
    module, x = layer(conv, *arguments), jnp.asarray(cases.normal("x", 2, 4, 4, 6))
    np.testing.assert_array_equal(module(x), plain(module, x))


def test_other_platforms_convolve(patches):
    """The choice is made where the program is lowered, not where it is traced."""
    lowered = jax.jit(layer(conv, 7)).trace(jnp.zeros((1, 4, 4, 6))).lower(lowering_platforms=("tpu",))
    assert "stablehlo.convolution" in lowered.as_text()


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
@pytest.mark.parametrize("shape", [(2, 4, 4, 6), (1, 3, 5, 6), (1, 1, 1, 6)])
def test_upsampling_in_four_ninths(shape, dtype, error):
    module, x = layer(conv, 7, dtype=dtype), jnp.asarray(cases.normal("x", *shape), dtype)
    found = convolution.upsample_and_convolve(module, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(float), plain(module, upsample_nearest(x)).astype(float), atol=error)


@pytest.mark.parametrize("size", [4, 16])
def test_upsample(size):
    module, x = layer(Upsample2D), jnp.asarray(cases.normal("x", 1, size, size, 6))
    np.testing.assert_allclose(module(x), plain(module.conv, upsample_nearest(x)), atol=1e-5)
    flops = count_flops(jax.make_jaxpr(module)(x))
    most = 2 * (2 * size) ** 2 * 9 * 6 * 6
    assert flops <= most * (4 / 9 if size == 16 else 1)


def test_downsample():
    x = jnp.asarray(cases.normal("x", 1, 4, 4, 6))
    assert layer(Downsample2D, PAD_BOTH)(x).shape == layer(Downsample2D, PAD_RIGHT_BELOW)(x).shape == (1, 2, 2, 6)
