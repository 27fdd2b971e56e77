"""``python -m ldis_jax.evaluate --benchmark=folder``: images of one's own, in one folder or several."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from ldis_jax import evaluate
from ldis_jax.evaluation import run as run_module
from ldis_jax.evaluation.protocols import domain
from ldis_jax.evaluators import MeanIoU
from ldis_jax.evaluators.episodes import baseline_masks
from ldis_jax.input_pipeline import episodes_hash, read_manifest
from ldis_jax.input_pipeline.chosen_folders import Choice, ChosenFolders
from tests.data import trees
from tests.data.test_folder_check import box, image_folder
from tests.helpers import call_command
from tests.input_pipeline.test_chosen_folders import zoo


@pytest.fixture
def command(micro_folder, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with zoo/ (images and masks) and farm/ (VOC's layout): (status, output, errors)."""
    zoo(tmp_path / "zoo")
    masks = {f"p{i}": box(1 + i % 2) for i in range(6)}
    image_folder(tmp_path / "farm", masks, "JPEGImages", "SegmentationClass")
    (tmp_path / "farm/classes.json").write_text(json.dumps({"names": ["background", "cow", "hen"], "mine": [1]}))
    trees.lines(tmp_path / "farm/ImageSets/Segmentation/train.txt", "p0", "p1", "p2", "p3")
    trees.lines(tmp_path / "farm/ImageSets/Segmentation/val.txt", "p4", "p5")
    monkeypatch.chdir(tmp_path)

    def call(*flags, model=micro_folder):
        fixed = [f"--model={model}", "--benchmark=folder", "--batch_size=4"]
        return call_command(evaluate.main, monkeypatch, capsys, *fixed, *flags)

    return call


def read(path):
    return json.loads(path.read_text())


def test_evaluate_folder_writes_a_report_of_one_folder(command, tmp_path):
    status, out, err = command("--data=zoo", "--queries=all", "--out=r/r.json")
    assert status == 0, err
    report = read(tmp_path / "r/r.json")
    assert report["benchmark"] == "folder" and report["num_shots"] == 1 and report["episodes"] == 10
    assert report["episodes_per_class"] == {"cat": 6, "dog": 4} and set(report["iou_per_class"]) == {"cat", "dog"}
    assert report["domain"].startswith("unknown")
    assert report["miou"] == pytest.approx(np.mean(list(report["iou_per_class"].values())))
    assert report["miou_interval"][0] <= report["miou"] <= report["miou_interval"][1]
    assert report["choice"]["queries"] == "all" and "note: too few for an episode: owl: 1 queries" in out
    records = read_manifest(tmp_path / "r/r.episodes.json")
    assert episodes_hash(records) == report["episodes_hash"] == report["folders"]["zoo"]["episodes_hash"]
    source = ChosenFolders([tmp_path / "zoo"], Choice())
    metrics = {name: MeanIoU("ldis") for name in report["baselines"]}
    for record in records:
        episode = source.episode(record)
        for name, mask in baseline_masks(episode).items():
            metrics[name].update(mask, episode.query_mask, episode.class_id)
    for name, metric in metrics.items():
        assert report["baselines"][name]["miou"] == pytest.approx(metric.result()["miou"])
        assert report["baselines"][name]["fb_iou"] == pytest.approx(metric.result()["fb_iou"])
    page = (tmp_path / "r/r.md").read_text()
    assert f"| cat | 6 | {report['iou_per_class']['cat']:.2f} | " in page and "- queries: all\n" in page
    assert out.endswith("r/r.json, r/r.md, r/r.episodes.json\n")


def test_evaluate_folder_runs_another_model_on_the_same_episodes(command, tmp_path, micro_folder_ldisn):
    assert command("--data=zoo", "--num_shots=2", "--episodes_per_class=3", "--out=a.json", "--queries=all")[0] == 0
    status, _, err = command("--data=zoo", "--manifest=a.episodes.json", "--out=b.json", model=micro_folder_ldisn)
    assert status == 0, err
    first, second = read(tmp_path / "a.json"), read(tmp_path / "b.json")
    assert first["episodes_per_class"] == {"cat": 3, "dog": 3} and second["num_shots"] == 2
    for name in ("episodes_hash", "data_hash", "baselines", "num_shots", "episodes_per_class"):
        assert first[name] == second[name]
    assert second["choice"] == {"manifest": "a.episodes.json"}
    assert (tmp_path / "a.episodes.json").read_bytes() == (tmp_path / "b.episodes.json").read_bytes()


def test_evaluate_folder_takes_several_folders_into_one_mean(command, tmp_path):
    flags = ("--data", "zoo", "farm", "--queries=all", "--classes", "unseen_classes", "mine")
    status, _, err = command(*flags, "--out=r.json")
    assert status == 0, err
    report = read(tmp_path / "r.json")
    assert report["episodes_per_class"] == {"farm/cow": 3, "zoo/dog": 4}
    assert report["miou"] == pytest.approx(np.mean(list(report["iou_per_class"].values())))
    for name, count in (("zoo", 4), ("farm", 3)):
        records = read_manifest(tmp_path / f"r.episodes/{name}.json")
        assert len(records) == count == report["folders"][name]["episodes"]
        assert not any("/" in record.query for record in records)
    assert command("--data=farm", "--data=zoo", "--manifest=r.episodes", "--out=again.json")[0] == 0
    again = read(tmp_path / "again.json")
    assert again["miou"] == report["miou"] and again["episodes_hash"] == report["episodes_hash"]
    assert command("--data=farm", "--manifest=r.episodes", "--out=one.json")[0] == 0
    assert read(tmp_path / "one.json")["iou_per_class"]["cow"] == report["iou_per_class"]["farm/cow"]


def test_evaluate_folder_gives_a_curve_on_the_folders_own_split(command, tmp_path):
    status, out, err = command("--data=farm", "--num_shots", "1", "2", "--out=r.json")
    assert status == 0, err
    report = read(tmp_path / "r.json")
    assert [point["num_shots"] for point in report["k_shot_curve"]] == [1, 2] and "2 prompts        miou" in out
    records = read_manifest(tmp_path / "r.episodes.json")
    assert {record.query: set(record.prompts) for record in records} == {"p4": {"p0", "p2"}, "p5": {"p1", "p3"}}


def test_evaluate_folder_goes_on_when_it_was_cut_off_and_stops_no_other_run(command, tmp_path, monkeypatch, caplog):
    assert command("--data=zoo", "--queries=all", "--out=whole.json")[0] == 0
    real = run_module.predict_episodes

    def cut_off(*args, **kwargs):
        for i, found in enumerate(real(*args, **kwargs)):
            if i == 6:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "predict_episodes", cut_off)
        assert command("--data=zoo", "--queries=all", "--out=r.json")[0] == 130
    assert not (tmp_path / "r.json").exists() and not (tmp_path / "r.episodes.json").exists()
    cut = (tmp_path / "r.records.jsonl").read_bytes()
    assert cut.count(b"\n") > 1
    assert command("--data=zoo", "--queries=all", "--out=r.json")[0] == 0
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "whole.json").read_bytes()

    # The same after a mask was mended in the meantime: nothing of before is taken for it, and nothing stops it.
    (tmp_path / "s.records.jsonl").write_bytes(cut)
    trees.save(tmp_path / "zoo/masks/cat5.png", box(1)[::-1].copy())
    assert command("--data=zoo", "--queries=all", "--out=s.json")[0] == 0
    assert (tmp_path / "s.records.unfinished.jsonl").read_bytes() == cut and "data_hash" in caplog.text
    status, _, err = command("--data=zoo", "--queries=all", "--out=whole.json")
    assert status == 2 and "whole.records.jsonl: holds another evaluation (data_hash: " in err


def test_evaluate_folder_leaves_nothing_of_a_run_that_fails_at_once(command, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    real, name = run_module.predict_episodes, tmp_path / "zoo/images/cat0.png"
    whole = name.read_bytes()

    def spoiled(*args, **kwargs):
        name.write_bytes(b"broken")  # after the check
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "predict_episodes", spoiled)
        status, _, err = command("--data=zoo", "--queries=all", "--out=r.json")
    assert status == 2 and "cat0.png" in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    name.write_bytes(whole)
    assert command("--data=zoo", "--queries=all", "--out=r.json")[0] == 0


def test_evaluate_folder_writes_the_report_alone_to_a_pipe(command, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with open(os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK), encoding="utf-8") as file:
        assert command("--data=zoo", "--out=pipe")[0] == 0
        assert json.loads(file.read())["benchmark"] == "folder"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data=nowhere",), "nowhere: needs images/ and masks/"),
        (("--data=zoo", "--data=zoo"), "--data: zoo: several folders of one name"),
        (("--data=zoo", "--classes=owl", "--queries=all"), "zoo: 1-shot episodes need a query and 1 other images"),
        (("--data", "zoo", "farm", "--classes=dog"), "--data: farm: no mask there shows a class of --classes"),
        (
            ("--data", "zoo", "farm", "--classes", "owl", "mine"),
            "--data: zoo: no class there has a query with 1 prompts",
        ),
        (("--data=zoo", "--min_object_percent=100"), "--min_object_percent=100.0: must be from 0 to below 100"),
        (("--data=zoo", "--min_object_percent=nan"), "--min_object_percent=nan: must be from 0 to below 100"),
        (("--data=zoo", "--episodes_per_class=0"), "--episodes_per_class=0: must be an integer of at least 1"),
        (("--data=zoo", "--num_shots=0"), "numbers of prompts are from 1 on"),
        (("--data=zoo", "--queries=nobody"), "nobody: cannot be read"),
        (("--data=zoo", "--manifest=m.json", "--classes=cat"), "--classes: the episodes of --manifest are chosen"),
        (("--data=zoo", "--manifest=m.json", "--num_shots=2"), "m.json: episodes of 1 prompts, and not of 2 only"),
        (("--data=farm", "--manifest=m.json"), "m.json: episode 0: cat0 is no image that shows class 1 (cat)"),
        (("--data", "farm", "zoo", "--manifest=m.json"), "m.json: no folder; of several data folders, freeze"),
        (("--data", "farm", "zoo", "--manifest=zoo"), "zoo/farm.json, an episode manifest"),
        (("--data=zoo", "--benchmark=mini-coco-1shot", "--skip_bad"), "--skip_bad: for --benchmark=folder only"),
        (("--data=zoo", "--benchmark=mini-coco-1shot", "--queries=all"), "--queries: for --benchmark=folder only"),
        (
            ("--data", "zoo", "farm", "--benchmark=mini-coco-1shot"),
            "--data with several folders: for --benchmark=folder",
        ),
    ],
)
def test_evaluate_folder_rejects_bad_input_in_one_line(command, tmp_path, flags, message):
    entry = {"class_id": 1, "class_name": "cat", "query": "cat0", "prompts": ["cat1"]}
    (tmp_path / "m.json").write_text(json.dumps([entry]))
    before = sorted(tmp_path.rglob("*"))
    status, _, err = command(*flags, "--out=r.json")
    assert status == 2 and message in err and err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == before


def test_domain_does_not_claim_what_is_not_known():
    assert domain({}, "folder", ()) == "unknown: the model card names no training data"
    assert domain({"folder": (), "pascal": (1,)}, "folder", ()).startswith(
        "unknown: trained on folder, pascal; nothing"
    )


def test_evaluate_folder_absent_reports_on_objects_that_are_not_there(command, tmp_path):
    flags = ("--data=zoo", "--queries=all", "--benchmark=folder-absent")
    status, out, err = command(*flags, "--out=a.json")
    assert status == 0, err
    report, records = read(tmp_path / "a.json"), read_manifest(tmp_path / "a.episodes.json")
    assert report["benchmark"] == "folder-absent" and report["episodes"] == len(records) == 20
    assert sum(record.absent for record in records) == 10 and episodes_hash(records) == report["episodes_hash"]
    assert report["episodes_per_class"] == {"cat": 6, "dog": 4}, "of those that are there"
    for name in ("false_alarms", "rendered_area", "auroc", "ece"):
        low, high = report[f"{name}_interval"]
        assert low <= report[name] <= high and name in out
    assert sum(count for _, _, count in report["reliability"]) == 20
    page = (tmp_path / "a.md").read_text()
    assert "AUROC of the score" in page and "is not calibrated" in page and (tmp_path / "a/reliability.png").is_file()
    every = read(tmp_path / "a.json")["miou"]
    status, _, err = command("--data=zoo", "--queries=all", "--out=b.json")
    assert status == 0 and read(tmp_path / "b.json")["miou"] == every, err
    status, _, err = command(*flags, "--out=c.json", "--min_score=1")
    strict = read(tmp_path / "c.json")
    assert strict["false_alarms"] == 0 and strict["miou"] == 0 and strict["auroc"] == report["auroc"]
    status, _, err = command("--data=zoo", "--manifest=a.episodes.json", "--benchmark=folder-absent", "--out=d.json")
    assert status == 0 and read(tmp_path / "d.json")["auroc"] == report["auroc"], err
    status, _, err = command("--data", "zoo", "farm", "--benchmark=folder-absent", "--out=e.json")
    assert status == 2 and "evaluate one at a time" in err


def test_draw_absent_record_does_not_call_a_small_object_absent(tmp_path):
    zoo(tmp_path / "zoo")
    source = ChosenFolders([tmp_path / "zoo"], Choice("all", min_object_percent=10))
    drawn = [source.draw_absent_record(np.random.default_rng(i), 1) for i in range(20)]
    for record in drawn:
        assert not (source.episode(record).query_mask == 1).any()
