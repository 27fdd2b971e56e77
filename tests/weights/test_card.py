"""Model cards: metadata that the hub accepts, facts of the model, code that runs."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard

from ldis_jax import LDISPipeline
from ldis_jax.weights import save_model
from ldis_jax.weights.card import Provenance, model_card, read_provenance
from tests.helpers import MICRO, micro_task
from tests.reference.weights import random_model

FACTS = Provenance("creativeml-openrail-m", ("owner/stable-diffusion", "ViT-L-14.pt")).trained(
    {"pascal": {"classes": ()}, "coco": {"classes": (1, 5)}, "scenes": {}},
    160_000,
    64,
    {"coco/miou": 52.61, "coco/fb_iou": 71.5, "prompt_swap": 0.925},
)


def test_metadata():
    data = ModelCard(model_card(micro_task("ldisn"), MICRO["ldisn"], FACTS)).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "creativeml-openrail-m",
        "ldis_jax",
        "image-segmentation",
    )
    assert data.base_model == ["owner/stable-diffusion"]
    assert "ldisn" in data.tags
    assert {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results} == {
        ("coco", "miou"): 52.61,
        ("coco", "fb_iou"): 71.5,
        ("episodes", "prompt_swap"): 0.925,
    }


def test_text():
    text = model_card(micro_task("ldisn"), MICRO["ldisn"], FACTS)
    facts = ["LDIS-n", "AutoencoderKL", "`creativeml-openrail-m`", "owner/stable-diffusion, ViT-L-14.pt"]
    rows = {"mask_alpha": 0.4, "data": "pascal, coco (2 classes), scenes", "steps": 160000, "coco/miou": 52.61}
    for fact in facts + [f"| {key} | {value} |" for key, value in rows.items()]:
        assert fact in text, fact


def test_nothing_known():
    text = model_card(micro_task("ldis1"), MICRO["ldis1"])
    assert ModelCard(text).data.license == "unknown"
    assert "their folder does not say" in text and "| steps | not recorded |" in text


def test_data_of_earlier_runs_are_kept():
    sources = {"coco": {"classes": (5, 7)}, "pascal": {"classes": (1,)}, "mine": {}}
    assert FACTS.trained(sources, 8, 2, {}).data == {"pascal": (), "coco": (1, 5, 7), "scenes": (), "mine": ()}
    assert FACTS.trained(sources, 8, 2, {}, new_unet=True).data == {"coco": (5, 7), "pascal": (1,), "mine": ()}


@pytest.mark.parametrize("content", [None, "no metadata", "---\n: [\n---\n", "---\nlicense: [1]\n---\n", "\x00\xff"])
def test_cards_by_others_never_stop_a_conversion(tmp_path, content):
    if content is not None:
        (tmp_path / "README.md").write_text(content)
    assert read_provenance(tmp_path) == Provenance()


def test_provenance_passes_on(tmp_path):
    (tmp_path / "README.md").write_text(model_card(micro_task("ldis1"), MICRO["ldis1"], FACTS))
    assert read_provenance(tmp_path) == Provenance(FACTS.license, FACTS.base, FACTS.data, 160_000)


def test_a_loaded_models_card_is_saved_with_it(tmp_path):
    card = model_card(micro_task("ldis1"), MICRO["ldis1"], FACTS)
    save_model(tmp_path / "a", micro_task("ldis1"), random_model(MICRO["ldis1"]), card)
    LDISPipeline.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_text() == card


def test_its_code_runs(tmp_path, pictures, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    save_model(tmp_path / "model", micro_task("ldis1"), random_model(MICRO["ldis1"]))
    monkeypatch.chdir(tmp_path)
    pictures["mask"].rename(tmp_path / "prompt_mask.png")
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "model" / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        names = {}
        exec(block.replace("FOLDER", str(tmp_path / "model")), names)
        assert names["mask"].dtype == bool and names["mask"].ndim == 2
