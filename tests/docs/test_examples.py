"""Python in the documents runs, as far as it needs no weights from elsewhere."""

import io

import numpy as np
import pytest
from PIL import Image

from ldis_jax import LDISError, LDISPipeline
from tests.helpers import ROOT


def test_train_page_example_of_a_config_of_ones_own_runs():
    example = (ROOT / "docs" / "train.md").read_text(encoding="utf-8").split("<!-- example -->\n```python\n")[1]
    names = {}
    exec(example.split("```")[0], names)
    config = names["get_config"]()
    assert config.data.sources.mine.split == "train" and config.eval.sets.mine.episodes == 1000
    assert config.is_locked and config.train_steps == 20_000


def test_faq_service_answers_an_upload_with_a_mask():
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8").split("<!-- service -->\n```python\n")[1]
    photographs = ROOT / "ldis_jax" / "demo" / "photographs"
    names = {}
    source = text.split("```")[0].replace('"prompt', f'r"{photographs}/coins')
    exec(source, names)
    answer = names["answer"]((photographs / "coins_query.jpg").read_bytes())
    expected = LDISPipeline.from_pretrained("small")(photographs / "coins_query.jpg", names["PROMPTS"])
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(answer))), expected.mask)
    assert 0.3 < expected.mask.mean() < 0.6
    with pytest.raises(LDISError):
        names["answer"](b"no image")
