"""Python in the documents, as far as no trained model is needed, runs."""

from tests.helpers import ROOT


def test_train_page_example_of_a_config_of_ones_own_runs():
    example = (ROOT / "docs" / "train.md").read_text(encoding="utf-8").split("<!-- example -->\n```python\n")[1]
    names = {}
    exec(example.split("```")[0], names)
    config = names["get_config"]()
    assert config.data.sources.mine.split == "train" and config.eval.sets.mine.episodes == 1000
    assert config.is_locked and config.train_steps == 20_000
