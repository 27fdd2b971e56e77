"""A query's result depends on its own prompts alone: not on padding, not on its neighbours in the batch."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import cases


@pytest.mark.parametrize(
    ("name", "case", "options"),
    [
        ("ldis1", "R/ldis1", {}),
        ("ldisn", "R/ldisn/ddim", cases.LDISN_OPTIONS | cases.sampling_noise() | {"sampler": "ddim"}),
    ],
)
def test_predict_is_unchanged_by_padding_to_a_larger_k(name, case, options):
    # Row 0 has three prompts, row 1 one with an empty mask; both are padded to four with prompts that are all object.
    images, masks = cases.random_images("padding", 2, 4), np.ones((2, 4, cases.SIZE, cases.SIZE), np.int32)
    images[0, :3], masks[0, :3] = (x[0] for x in cases.prompts(3))
    images[1, :1], masks[1, :1] = (x[1] for x in cases.prompts(1))
    assert not masks[1, 0].any()
    padded = cases.predict(name, cases.query_image(), cases.prompt_inputs(images, masks, np.array([3, 1])), **options)
    exact = np.stack([cases.jax_output(f"{case}/3")[0], cases.jax_output(f"{case}/1")[1]])
    assert np.abs(padded - exact).max() <= 1e-5 * np.abs(exact).max()
