"""Model cards: metadata that the hub accepts, facts of the model, code that runs."""

from __future__ import annotations

import logging
import re

import pytest
from huggingface_hub import ModelCard

from ldis_jax import LDISPipeline
from ldis_jax.weights import save_model
from ldis_jax.weights.card import Provenance, model_card, read_provenance
from ldis_jax.weights.model_folder import read_card
from tests.helpers import MICRO, micro_task
from tests.reference.weights import random_model

FACTS = Provenance("creativeml-openrail-m", ("owner/stable-diffusion", "ViT-L-14.pt")).trained(
    {"pascal": {"classes": ()}, "coco": {"classes": (1, 5)}, "scenes": {}},
    160_000,
    64,
    {"coco/miou": 52.61, "coco/fb_iou": 71.5, "prompt_swap": 0.925},
)


def test_model_card_has_metadata_for_the_hub():
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


def test_model_card_text_states_the_facts():
    text = model_card(micro_task("ldisn"), MICRO["ldisn"], FACTS)
    facts = ["LDIS-n", "AutoencoderKL", "`creativeml-openrail-m`", "owner/stable-diffusion, ViT-L-14.pt"]
    rows = {"mask_alpha": 0.4, "data": "pascal, coco (2 classes), scenes", "steps": 160000, "coco/miou": 52.61}
    for fact in facts + [f"| {key} | {value} |" for key, value in rows.items()]:
        assert fact in text, fact


def test_model_card_without_provenance_says_so():
    text = model_card(micro_task("ldis1"), MICRO["ldis1"])
    assert ModelCard(text).data.license == "unknown"
    assert "their folder does not say" in text and "| steps | not recorded |" in text


def test_provenance_keeps_the_data_of_earlier_runs():
    sources = {"coco": {"classes": (5, 7)}, "pascal": {"classes": (1,)}, "mine": {}}
    assert FACTS.trained(sources, 8, 2, {}).data == {"pascal": (), "coco": (1, 5, 7), "scenes": (), "mine": ()}
    assert FACTS.trained(sources, 8, 2, {}, new_unet=True).data == {"coco": (5, 7), "pascal": (1,), "mine": ()}


@pytest.mark.parametrize("content", [None, "no metadata", "---\n: [\n---\n", "---\nlicense: [1]\n---\n", "\x00\xff"])
def test_read_provenance_accepts_any_card_by_others(tmp_path, content):
    if content is not None:
        (tmp_path / "README.md").write_text(content)
    assert read_provenance(read_card(tmp_path)) == Provenance()


def again(facts):
    return read_provenance(model_card(micro_task("ldis1"), MICRO["ldis1"], facts))


def test_provenance_passes_on():
    known = FACTS.trained({}, 160_000, 64, {}, new_unet=True)
    assert again(FACTS) == Provenance(FACTS.license, FACTS.base, FACTS.data, 160_000)
    scenes = again(known.trained({"scenes": {"kind": "procedural"}}, 5, 2, {}, new_unet=True))
    assert (scenes.data, scenes.steps, scenes.knows) == ({"scenes": ()}, 5, ("painted scenes",))


def test_provenance_statement_follows_the_training():
    scenes, pictures, pascal = ({name: {"kind": kind}} for name, kind in
                                (("shapes", "procedural"), ("mine", "folder"), ("pascal", "records")))  # fmt: skip
    converted = Provenance(steps=0)
    fresh = Provenance("mit", data={"coco": ()}, steps=9).trained(scenes, 0, 2, {}, new_unet=True)
    for nothing in map(again, (converted, fresh)):
        assert nothing.statement.startswith("nothing yet: a starting point") and nothing.fails_on_photographs
        painted = again(nothing.trained(scenes, 5, 2, {}))
        assert painted.statement == "painted scenes only; photographs need another model"
        assert painted.fails_on_photographs and again(painted.trained(scenes, 5, 2, {})).knows == painted.knows
        assert again(painted.trained(pictures, 0, 2, {})).knows == painted.knows, "no step was taken"
        tuned = again(painted.trained(pictures | scenes, 5, 2, {}))
        assert tuned.statement == "painted scenes, own images" and not tuned.fails_on_photographs
        assert again(tuned.trained(pascal, 5, 2, {}, new_unet=True)).statement == "pascal"
    own = again(Provenance(steps=5, knows=("photographs of 80 kinds of things",)))
    assert again(own.trained(pictures, 5, 2, {})).statement == "photographs of 80 kinds of things, own images"


def test_provenance_does_not_state_what_nobody_wrote_down():
    """As of the paper's weights: what they were trained on after that is not all that they know."""
    for unknown in (Provenance(), FACTS):
        after = again(unknown.trained({"scenes": {"kind": "procedural"}}, 5, 2, {}))
        assert after.statement == "" and not after.fails_on_photographs and "scenes" in after.data


@pytest.mark.parametrize("knows", ["painted scenes", "[painted scenes, 3]", '["painted scenes", "\\e[2J"]', '["<b>"]'])
def test_read_provenance_ignores_a_statement_that_is_no_list_of_plain_words(knows):
    assert read_provenance(f"---\ntraining_steps: 5\nknows: {knows}\n---\n").statement == ""
    assert read_provenance("---\ntraining_steps: 5\nknows: [painted scenes]\n---\n").fails_on_photographs


def test_read_provenance_is_fast_on_a_card_that_unfolds_without_end():
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40))]
    card = "\n".join(["---", *lines, "base_weights: [*a39]", "training_sets: {x: [*a39]}", "knows: *a39", "---", ""])
    assert read_provenance(card) == Provenance(data={"x": ()})


def test_save_pretrained_keeps_the_card_of_a_loaded_model(tmp_path):
    card = model_card(micro_task("ldis1"), MICRO["ldis1"], FACTS)
    save_model(tmp_path / "a", micro_task("ldis1"), random_model(MICRO["ldis1"]), card)
    LDISPipeline.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_text() == card


def test_from_pretrained_warns_once_of_a_model_that_fails_on_photographs(tmp_path, caplog):
    said = []
    for name, facts in (("silent", FACTS), ("nothing", Provenance(steps=0))):
        card = model_card(micro_task("ldis1"), MICRO["ldis1"], facts)
        save_model(tmp_path / name, micro_task("ldis1"), random_model(MICRO["ldis1"]), card)
        with caplog.at_level(logging.WARNING, "ldis_jax"):
            pipe = LDISPipeline.from_pretrained(tmp_path / name)
        assert pipe.knows == pipe.to("bfloat16").knows == facts.statement
        said += [record.getMessage() for record in caplog.records]
        caplog.clear()
    assert said == [f"{tmp_path / 'nothing'}: this model knows {Provenance(steps=0).statement}"]


def test_model_card_code_runs(tmp_path, pictures, monkeypatch):
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
