"""EfficientNet-Lite0 as a prompt encoder: the public features, and what it says of a query."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldis_jax.models.config import EfficientNetConfig
from ldis_jax.models.efficientnet import EfficientNetLite0
from ldis_jax.models.layers import key_stream
from ldis_jax.weights.rules import fill
from ldis_jax.weights.tensors import Weights, from_array
from tests.helpers import ROOT, load_script

CONFIG = EfficientNetConfig(image_size=64)
read = nnx.jit(EfficientNetLite0.__call__)
describe = nnx.jit(EfficientNetLite0.describe_query)


def abstract():
    return nnx.eval_shape(lambda: EfficientNetLite0(CONFIG, rngs=key_stream(jax.random.key(0))))


@pytest.fixture(scope="module")
def public():
    """The public network with random weights and statistics, and ours with the same."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in theirs.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_(1.0 if name.endswith("weight") else 0.0, 0.1, generator=generator)
        elif value.is_floating_point():
            value.normal_(0.0, value[0].numel() ** -0.5, generator=generator)
    tensors = {name: from_array(value.numpy()) for name, value in theirs.state_dict().items()}
    fold = load_script(ROOT / "tools" / "small_encoders.py").fold
    return theirs, fill(abstract(), Weights(fold(Weights(tensors, "public")), "folded"))


def mean_square_one(x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def test_efficientnet_features_are_the_public_networks(public):
    import torch

    theirs, ours = public
    image = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    levels = {}
    with torch.no_grad():
        pixels = np.round((image + 1) * 127.5, 3)
        x = torch.from_numpy((pixels - 127) / 128).permute(0, 3, 1, 2)
        x = torch.nn.functional.relu6(theirs._bn0(theirs._conv_stem(x)))
        for i, block in enumerate(theirs._blocks):
            levels[i] = x = block(x)
        levels[15] = torch.nn.functional.interpolate(levels[15], scale_factor=2, mode="bilinear")
    expected = [mean_square_one(levels[i].permute(0, 2, 3, 1).reshape(2, 16, -1).numpy()) for i in (10, 15)]
    tokens = np.asarray(read(ours, image, jnp.zeros((2, 64, 64))))
    np.testing.assert_allclose(tokens[..., :-1], np.concatenate(expected, axis=-1), atol=1e-4)
    assert (tokens[..., -1] == 0).all()


def test_efficientnet_alpha_is_the_mean_over_a_token(public):
    alpha = np.zeros((1, 64, 64), np.float32)
    alpha[:, :16, 16:24] = 2.0
    tokens = np.asarray(read(public[1], jnp.zeros((1, 64, 64, 3)), jnp.asarray(alpha)))
    np.testing.assert_allclose(tokens[0, :, -1], [0, 1.0] + [0] * 14, atol=1e-6)


def halves():
    """An image whose left half is noise and whose right half is flat, and the alpha of a mask of the left."""
    image = np.full((1, 64, 64, 3), 0.3, np.float32)
    image[:, :, :32] = np.random.default_rng(1).uniform(-1, 1, (1, 64, 32, 3))
    mask = np.zeros((1, 64, 64), np.float32)
    mask[:, :, :32] = 1
    return jnp.asarray(image), jnp.asarray((mask - 0.5) / 0.26)


def test_describe_query_tells_what_resembles_the_object_from_the_rest(public):
    image, alpha = halves()
    tokens = read(public[1], image, alpha)
    described = np.asarray(describe(public[1], image, tokens, jnp.zeros((1, 16))))
    assert described.shape == (1, 4, 4, CONFIG.query_channels)
    np.testing.assert_allclose(described[..., : CONFIG.width - 1], tokens.reshape(1, 4, 4, -1)[..., :-1], atol=1e-5)
    object_over_rest = described[0, :, :, CONFIG.width + 4]  # of both levels together
    assert object_over_rest[:, 0].min() > object_over_rest[:, 3].max()


def test_describe_query_does_not_read_padding(public):
    image, alpha = halves()
    tokens = read(public[1], image, alpha)
    padded = jnp.concatenate([tokens, jnp.full_like(tokens, 7.0)], axis=1)
    bias = jnp.where(jnp.arange(32) < 16, 0.0, -jnp.inf)[None]
    alone = describe(public[1], image, tokens, jnp.zeros((1, 16)))
    np.testing.assert_allclose(describe(public[1], image, padded, bias), alone, atol=1e-5)


def test_describe_query_stays_finite_for_a_prompt_without_object(public):
    image, _ = halves()
    for alpha in (-0.5, 0.5):
        tokens = read(public[1], image, jnp.full((1, 64, 64), alpha / 0.26))
        assert np.isfinite(describe(public[1], image, tokens, jnp.zeros((1, 16)))).all()
