"""Every way of computing a convolution gives what XLA's own gives."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldis_jax.models import convolution, winograd
from ldis_jax.models.convolution import PAD_BOTH, PAD_RIGHT_BELOW, Downsample2D, Upsample2D, conv, upsample_nearest
from ldis_jax.runtime.flops import count_flops
from tests.reference import cases


def layer(kind=conv, *args, dtype=jnp.float32):
    return kind(6, *args, dtype=dtype, rngs=nnx.Rngs(0))


def plain(module: nnx.Conv, x):
    return nnx.Conv.__call__(module, x)


@pytest.fixture(params=["patches", "winograd", "stripes"])
def way(request, monkeypatch):
    """Takes one way wherever that is possible."""
    monkeypatch.setattr(convolution, "_MANY_CHANNELS", 1)
    monkeypatch.setattr(convolution, "_MANY_PIXELS", 10**9 if request.param == "patches" else 0)
    if request.param == "stripes":
        monkeypatch.setattr(winograd, "_TILES", 4)


def convolves(function, *arguments, platform="cpu"):
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
    return "stablehlo.convolution" in lowered.as_text()


def assert_same(run, plainly, module, x):
    """Results and gradients."""
    graph, state = nnx.split(module)

    @functools.partial(jax.jit, static_argnums=0)
    def both(run, state, x):
        result, gradients = jax.vjp(lambda state, x: run(nnx.merge(graph, state), x), state, x)
        return result, gradients(jnp.sin(result))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), both(run, state, x), both(plainly, state, x))


@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (1, 2, 2, 6)])
def test_conv_gives_the_same_by_every_way(way, shape):
    module, x = layer(conv, 7), jnp.asarray(cases.normal("x", *shape))
    assert not convolves(module, x)
    assert_same(lambda module, x: module(x), plain, module, x)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (1, 1, 1, 6), (1, 4, 5, 6)])
def test_conv_takes_odd_sizes(way, shape):
    module, x = layer(conv, 7), jnp.asarray(cases.normal("x", *shape))
    np.testing.assert_allclose(module(x), plain(module, x), atol=1e-5)


@pytest.mark.parametrize("arguments", [(7, 1), (7, 3, 2, PAD_BOTH), (7, 3, 1, PAD_RIGHT_BELOW)])
def test_conv_is_xlas_own_where_no_way_covers_it(way, arguments):
    module, x = layer(conv, *arguments), jnp.asarray(cases.normal("x", 2, 4, 4, 6))
    np.testing.assert_array_equal(module(x), plain(module, x))


def test_conv_of_16_bits_is_a_convolution(way):
    assert convolves(layer(conv, 7, dtype=jnp.bfloat16), jnp.zeros((1, 4, 4, 6)))


def test_conv_is_a_convolution_on_other_platforms(way):
    """The choice is made where the program is lowered, not where it is traced."""
    for module in (layer(conv, 7), layer(Upsample2D)):
        assert not convolves(module, jnp.zeros((1, 4, 4, 6)))
        assert convolves(module, jnp.zeros((1, 4, 4, 6)), platform="tpu")


def test_conv_chooses_the_way_by_the_shape():
    """Of SD 1.5's layers: patches have one product, Winograd's tiles 16, and few channels a convolution."""

    def products(size, channels):
        graph, state = nnx.split(nnx.eval_shape(lambda: conv(channels, channels, dtype=jnp.float32, rngs=nnx.Rngs(0))))
        x = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
        traced = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).trace(state, x)
        return traced.lower(lowering_platforms=("cpu",)).as_text().count("stablehlo.dot_general")

    assert [products(*shape) for shape in [(8, 1280), (32, 320), (128, 256), (256, 128)]] == [1, 16, 16, 0]


@pytest.mark.parametrize("shape", [(2, 4, 3, 6), (1, 1, 1, 6)])
def test_upsample2d_gives_the_convolution_of_the_upsampled_image(way, shape):
    module, x = layer(Upsample2D), jnp.asarray(cases.normal("x", *shape))
    assert_same(lambda module, x: module(x), lambda module, x: plain(module.conv, upsample_nearest(x)), module, x)


def test_conv_can_be_exported_for_any_batch(way):
    """As an exported program has it."""
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("B, 4, 4, 6"), jnp.float32)
    for module in (layer(conv, 7), layer(Upsample2D)):
        exported = jax.export.export(jax.jit(module), platforms=["cpu"])(x)
        inputs = jnp.asarray(cases.normal("x", 3, 4, 4, 6))
        np.testing.assert_allclose(exported.call(inputs), module(inputs), atol=1e-5)


def test_winograd_needs_fewer_multiplications():
    """Nine a channel for one result become four; of an upsampled image nine for four."""
    x, kernel = jnp.zeros((1, 8, 8, 6)), jnp.zeros((3, 3, 6, 5))
    plainly = 2 * 9 * 8 * 8 * 6 * 5
    assert count_flops(jax.make_jaxpr(winograd.convolve)(x, kernel)) == plainly * 4 / 9
    assert count_flops(jax.make_jaxpr(winograd.upsample_and_convolve)(x, kernel)) == 4 * plainly / 4


def test_downsample2d_halves_height_and_width():
    x = jnp.asarray(cases.normal("x", 1, 4, 4, 6))
    assert layer(Downsample2D, PAD_BOTH)(x).shape == layer(Downsample2D, PAD_RIGHT_BELOW)(x).shape == (1, 2, 2, 6)
