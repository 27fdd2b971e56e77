"""Resizes against closed forms and, where torch is there, against ``interpolate`` itself."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.tasks.resize import bilinear_matrix, nearest_indices, resize_bilinear, resize_nearest

PAIRS = [(256, 224), (256, 16), (224, 16), (64, 56), (16, 256), (224, 256), (7, 3), (3, 7), (1, 5), (5, 1), (31, 32)]


@pytest.mark.parametrize(("size_in", "size_out"), PAIRS)
def test_nearest_indices_are_the_floor(size_in, size_out):
    exact = np.arange(size_out) * size_in // size_out
    np.testing.assert_array_equal(nearest_indices(size_in, size_out), exact)


@pytest.mark.parametrize(("size_in", "size_out"), PAIRS)
def test_bilinear_matrix_interpolates_half_pixel_centres(size_in, size_out):
    signal = np.random.default_rng(0).normal(size=size_in)
    centres = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    expected = np.interp(centres, np.arange(size_in), signal)  # clamps at both ends; torch's centres are float32
    np.testing.assert_allclose(bilinear_matrix(size_in, size_out) @ signal, expected, atol=2e-4)


def test_resize_treats_rows_and_columns_apart():
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 3)).astype(np.float32)
    rows, cols = bilinear_matrix(6, 4), bilinear_matrix(9, 4)
    expected = np.einsum("oh,bhwc,pw->bopc", rows, x, cols)
    np.testing.assert_allclose(resize_bilinear(jnp.asarray(x), 4), expected, atol=1e-6)
    nearest = resize_nearest(jnp.asarray(x[..., 0]), 4)
    np.testing.assert_array_equal(nearest, x[:, [0, 1, 3, 4]][:, :, [0, 2, 4, 6], 0])


def test_resize_bilinear_to_the_same_size_changes_nothing():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 5, 2)).astype(np.float32))
    assert (resize_bilinear(x, 5) == x).all()


def test_nearest_indices_are_torchs_for_every_pair():
    torch = pytest.importorskip("torch")
    for size_in in [*range(1, 41), 224, 256, 257, 427, 480, 640]:
        index = torch.arange(size_in, dtype=torch.float32)[None, None]
        for size_out in [*range(1, 41), 224, 256]:
            theirs = torch.nn.functional.interpolate(index, size_out, mode="nearest")[0, 0]
            ours = nearest_indices(size_in, size_out)
            np.testing.assert_array_equal(ours, theirs.numpy(), err_msg=f"{size_in} -> {size_out}")


@pytest.mark.parametrize(("size_in", "size_out"), PAIRS)
def test_resize_is_torchs(size_in, size_out):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, size_in, size_in + 2, 3)).astype(np.float32)
    nchw, size = torch.from_numpy(x).permute(0, 3, 1, 2), (size_out, size_out)
    bilinear = torch.nn.functional.interpolate(nchw, size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    nearest = torch.nn.functional.interpolate(nchw, size, mode="nearest").permute(0, 2, 3, 1)
    np.testing.assert_allclose(resize_bilinear(jnp.asarray(x), size_out), bilinear.numpy(), atol=2e-6)
    np.testing.assert_array_equal(resize_nearest(jnp.asarray(x[..., 1]), size_out), nearest[..., 1].numpy())
