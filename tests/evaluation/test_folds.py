"""Benchmarks of several folds: all of them in one run, and their mean."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ldis_jax import evaluate
from ldis_jax.evaluation.intervals import image_figures, mean_of_folds
from ldis_jax.evaluation.protocols import FOLDED, PROTOCOLS, Folds, Protocol
from tests.evaluation.test_benchmark import random_records
from tests.helpers import call_command

TOY = Folds(
    Protocol("toy-1shot", "voc", classes=(1, 2), episodes=5),
    tuple(Protocol(f"toy-fold{label - 1}-1shot", "voc", classes=(label,), episodes=5) for label in (1, 2)),
)


def test_folded_names_stand_for_all_four_folds():
    assert set(FOLDED) == {"coco20i-1shot", "coco20i-5shot", "pascal5i-1shot", "pascal5i-5shot"}
    for name, (whole, folds) in FOLDED.items():
        assert whole.name == name and len(folds) == 4
        assert all(PROTOCOLS[fold.name] == fold for fold in folds)
        assert whole.classes == tuple(range(1, 81 if "coco" in name else 21))
        assert sorted(label for fold in folds for label in fold.classes) == list(whole.classes)
    assert FOLDED["coco20i-5shot"].folds[2].name == "coco20i-fold2-5shot"


@pytest.mark.parametrize("accumulation", ["ldis", "hsnet"])
def test_mean_of_folds_averages_the_figures_of_each_fold(accumulation):
    folds = [random_records(count, seed=count) for count in (30, 50, 70)]
    found = mean_of_folds(folds, accumulation)
    for name in ("miou", "fb_iou"):
        assert found[name] == pytest.approx(np.mean([image_figures(fold, accumulation)[name] for fold in folds]))
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
    assert mean_of_folds([random_records(1)], "ldis")["miou_interval"] is None


def test_mean_of_folds_resamples_folds_apart():
    """Of four folds with the same spread, the mean's is half of it: only so if no fold repeats another's resamples."""
    records = random_records(400)
    low, high = image_figures(records, "ldis")["miou_interval"]
    mean_low, mean_high = mean_of_folds([records] * 4, "ldis")["miou_interval"]
    assert mean_high - mean_low == pytest.approx((high - low) / 2, rel=0.15)


@pytest.fixture
def command(micro_folder, voc, tmp_path, monkeypatch, capsys):
    """Runs ``python -m ldis_jax.evaluate``: (status, output, errors)."""
    monkeypatch.setitem(FOLDED, "toy-1shot", TOY)
    for fold in TOY.folds:
        monkeypatch.setitem(PROTOCOLS, fold.name, fold)

    def call(*more, out="r.json", benchmark="toy-1shot"):
        arguments = [f"--model={micro_folder}", f"--benchmark={benchmark}", f"--data={voc}", "--batch_size=5"]
        return call_command(evaluate.main, monkeypatch, capsys, *arguments, f"--out={tmp_path / out}", *more)

    return call


def test_evaluate_of_all_folds_gives_what_each_fold_gives(command, tmp_path):
    status, out, err = command()
    assert status == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    for fold, protocol in zip(report["folds"], TOY.folds, strict=True):
        assert command(benchmark=protocol.name, out="one.json")[0] == 0
        one = json.loads((tmp_path / "one.json").read_text())
        for path in tmp_path.glob("one.*"):
            path.unlink()
        assert fold == {key: one[key] for key in fold}
    for figures, folds in [
        (report, report["folds"]),
        *((report["baselines"][name], [f["baselines"][name] for f in report["folds"]]) for name in report["baselines"]),
    ]:
        assert figures["miou"] == pytest.approx(np.mean([fold["miou"] for fold in folds]))
        assert figures["iou_per_class"] == folds[0]["iou_per_class"] | folds[1]["iou_per_class"]
    assert set(report["iou_per_class"]) == {"cat", "dog"} and report["episodes"] == 10
    assert f"mean of folds    miou {report['miou']:.2f} (" in out and "fold 1           miou" in out
    page = (tmp_path / "r.md").read_text()
    assert "| toy-fold1-1shot | " in page and f"| mean | {report['miou']:.2f} (" in page
    assert (tmp_path / "r" / "classes.png").is_file()

    whole = (tmp_path / "r.json").read_bytes()
    lines = (tmp_path / "r.records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "again.records.jsonl").write_bytes(b"".join(lines[: 1 + 7]))  # cut off in the second fold
    assert command(out="again.json")[0] == 0
    assert (tmp_path / "again.json").read_bytes() == whole


@pytest.mark.parametrize("flags", [("--num_shots", "1", "3"), ("--manifest=m.json",)])
def test_evaluate_of_all_folds_rejects_flags_of_one_fold(command, tmp_path, flags):
    status, _, err = command(*flags)
    assert status == 2 and "toy-1shot is a benchmark of several folds; both flags are for images, of one fold" in err
    assert err.count("\n") == 1 and not list(tmp_path.iterdir())
