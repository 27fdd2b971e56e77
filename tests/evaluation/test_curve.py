"""``--num_shots``: mIoU against the number of prompts, on the same queries."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ldis_jax import evaluate
from ldis_jax.errors import LDISError
from ldis_jax.evaluation import run as run_module
from ldis_jax.evaluation.benchmark_data import draw_episodes, open_curve, open_source
from ldis_jax.evaluation.intervals import image_figures, miou_gain
from ldis_jax.evaluation.protocols import PROTOCOLS, Protocol
from ldis_jax.input_pipeline import episodes_hash
from ldis_jax.media.images import read_image
from tests.helpers import call_command

TOY = Protocol("toy", "voc", episodes=5)


def test_open_curve_takes_fewer_prompts_as_the_first_of_the_most(voc):
    source = open_source(voc, TOY)
    curve = open_curve(source, TOY, [1, 3, 4])
    most = draw_episodes(source, Protocol("toy", "voc", num_shots=4, episodes=5))
    assert curve[4].hash == episodes_hash(most)
    for k, episodes in curve.items():
        for i, record in enumerate(most):
            episode = episodes[i]
            assert (episode.name, episode.class_id) == (record.query, record.class_id)
            assert len(episode.prompt_masks) == k
            for j in range(k):
                np.testing.assert_array_equal(episode.prompt_images[j], curve[4][i].prompt_images[j])
    assert len({episodes.hash for episodes in curve.values()}) == 3


def test_open_curve_rejects_too_many_prompts_in_one_line(voc):
    with pytest.raises(LDISError, match=r"5-shot episodes need 6 images of a class, the most frequent .* has 5"):
        open_curve(open_source(voc, TOY), TOY, [1, 5])


def test_miou_gain_is_paired():
    """A model that is better by a constant share of every query has a gain far surer than either mIoU."""
    rng = np.random.default_rng(0)
    first, second = [], []
    for _ in range(60):
        class_id, inter = int(rng.integers(1, 4)), int(rng.integers(0, 80))
        first.append({"class_id": class_id, "areas": [[0, 1], [inter, 100]]})
        second.append({"class_id": class_id, "areas": [[0, 1], [inter + 10, 100]]})
    found = miou_gain(first, second, "ldis")
    assert found["gain"] == pytest.approx(10) and found["gain_interval"] == pytest.approx([10, 10])
    low, high = image_figures(first, "ldis")["miou_interval"]
    assert high - low > 5
    assert miou_gain(first, first, "ldis") == {"gain": 0.0, "gain_interval": [0.0, 0.0]}


@pytest.fixture
def command(micro_folder, voc, tmp_path, monkeypatch, capsys):
    """Runs ``python -m ldis_jax.evaluate --num_shots 3 1``: (status, output, errors)."""
    monkeypatch.setitem(PROTOCOLS, "toy", TOY)

    def call(*more, out="r.json", benchmark="toy", shots=(3, 1)):
        arguments = [f"--model={micro_folder}", f"--benchmark={benchmark}", f"--data={voc}", "--batch_size=4"]
        arguments += [f"--out={tmp_path / out}", *more, "--num_shots", *shots]
        return call_command(evaluate.main, monkeypatch, capsys, *arguments)

    return call


def test_evaluate_num_shots_gives_a_curve_and_goes_on_when_it_was_cut_off(command, tmp_path, monkeypatch):
    status, out, err = command()
    assert status == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    points = report["k_shot_curve"]
    assert [point["num_shots"] for point in points] == report["num_shots"] == [1, 3]
    assert points[0]["gain"] == 0 and "3 prompts        miou" in out
    for point in points:
        assert point["gain"] == pytest.approx(point["miou"] - points[0]["miou"])
        assert point["miou_interval"][0] <= point["miou"] <= point["miou_interval"][1]
    assert report["episodes"] == 5 and report["episodes_hash"] == points[-1]["episodes_hash"]
    page = (tmp_path / "r.md").read_text()
    assert "![mIoU by number of prompts](r/k_shot_curve.png)" in page and f"| 3 | {points[1]['miou']:.2f} (" in page
    assert read_image(tmp_path / "r" / "k_shot_curve.png").std() > 0

    # Cut off in the second of two sets.
    lines = (tmp_path / "r.records.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 5
    (tmp_path / "again.records.jsonl").write_bytes(b"".join(lines[: 1 + 7]))
    seen, real = [], run_module.predict_episodes

    def watched(*args, **kwargs):
        seen.append(kwargs["indices"])
        return real(*args, **kwargs)

    monkeypatch.setattr(run_module, "predict_episodes", watched)
    assert command(out="again.json")[0] == 0
    assert seen == [[2, 3, 4]]
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "r.json").read_bytes()

    status, _, err = command(out="again.json", shots=(1, 2))  # another curve is not continued
    assert status == 2 and "again.records.jsonl: holds another evaluation (episodes_hashes: " in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shots": (0, 1)},
            "both flags are for images, of one fold, and numbers of prompts are from 1 on",
        ),
        ({"shots": (1,), "benchmark": "mini-vspw"}, "mini-vspw is a benchmark of semantic; both flags are for images"),
        ({"shots": (1, 9)}, "9-shot episodes need 10 images of a class"),
    ],
)
def test_evaluate_num_shots_rejects_bad_input_in_one_line(command, tmp_path, changes, message):
    status, _, err = command(**changes)
    assert status == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
