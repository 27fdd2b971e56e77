"""Every network, prediction and training step against torch: live, and from torch's stored figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ldis_jax.tasks import instruction
from tests.compile_flags import OPTIMIZED
from tests.parity.make_golden import GOLDEN, thin
from tests.reference import cases

if TYPE_CHECKING:
    from tests.reference.torch_ldis import TorchLDIS


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TorchLDIS]:
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.reference import torch_cases

    return torch_cases.references(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("case", cases.CASES)
def test_parity_with_live_torch(case, references):
    from tests.reference.torch_cases import torch_output

    ours, truth = cases.jax_output(case), torch_output(case, references)
    assert ours.shape == truth.shape
    assert cases.error(case, ours, truth) <= cases.tolerance(case)


@pytest.mark.parametrize("case", cases.CASES)
def test_parity_with_golden_results_of_torch(case):
    truth = np.load(GOLDEN)[case]
    assert cases.error(case, thin(cases.jax_output(case)), truth) <= cases.tolerance(case)


def test_predict_gives_the_same_from_optimized_code():
    """Tests compile without the compiler's last optimizations, users with them."""
    inputs = cases.prompt_inputs(*cases.prompts(1))
    ours = cases.predict("ldis1", cases.query_image(), inputs, compiler_options=OPTIMIZED)
    assert cases.error("R/ldis1/1", thin(ours), np.load(GOLDEN)["R/ldis1/1"]) <= cases.tolerance("R/ldis1/1")


def test_golden_file_is_complete():
    assert set(np.load(GOLDEN)) == set(cases.CASES)
    assert GOLDEN.stat().st_size < 200_000


def test_training_draws_meet_every_dropout_branch():
    p = cases.TASKS["ldisn"].conditioning_dropout
    assert sorted((cases.training_draws("ldisn")["u"] // p).astype(int)) == [0, 1, 2, 3]


def test_instruction_tokens_have_torchs_mask(references):
    images, masks = cases.prompts(3)
    ours = cases.run(instruction.instruction_tokens, cases.model("ldis1").prompt_encoder, images, masks)[1]
    truth = references["ldis1"].instruction_tokens(images, masks)[1].detach().numpy()
    assert 0 < truth.mean() < 1
    np.testing.assert_array_equal(ours, truth)
