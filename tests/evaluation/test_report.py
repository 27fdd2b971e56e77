"""Pages for people."""

import pytest

from ldis_jax.training.results import write_training_page

COPY, ALL = 8.25, 20.0
BASELINES = {"copy_prompt": {"miou": COPY, "fb_iou": 47.5}, "all_foreground": {"miou": ALL, "fb_iou": 3.7}}


@pytest.mark.parametrize(
    ("miou", "verdict"),
    [
        (5.0, "**Not above copying the prompt's mask and calling everything foreground: of no use yet.**"),
        (12.0, "**Not above calling everything foreground: of no use yet.**"),
        (ALL, "**Not above calling everything foreground: of no use yet.**"),
        (63.35, "mIoU is 55.1 points above copying the prompt's mask and 43.4 points above calling everything foregr"),
    ],
)
def test_write_training_page_says_in_words_whether_the_model_is_of_use(tmp_path, miou, verdict):
    report = {"miou": miou, "fb_iou": 50.0, "baselines": BASELINES, "evaluation_set": "unseen", "episodes": 4}
    write_training_page(tmp_path, report | {"episodes_hash": "0", "steps": 8, "seconds": 1.0})
    title, _, first, *_ = (tmp_path / "report.md").read_text().split("\n")
    assert title.startswith("# ") and first.startswith(verdict)
