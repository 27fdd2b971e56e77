"""Protocols, records, intervals and reports, and ``python -m ldis_jax.evaluate`` on a folder of ten images."""

from __future__ import annotations

import dataclasses
import json
import os
import re

import numpy as np
import pytest

from ldis_jax import evaluate
from ldis_jax.errors import LDISError
from ldis_jax.evaluation import run as run_module
from ldis_jax.evaluation.benchmark_data import draw_episodes, open_episodes, open_source
from ldis_jax.evaluation.intervals import image_figures
from ldis_jax.evaluation.protocols import PROTOCOLS, Protocol, coco_fold, domain, pascal_fold
from ldis_jax.evaluation.records import Records
from ldis_jax.evaluation.report import Subject, ranked
from ldis_jax.evaluators import MeanIoU
from ldis_jax.evaluators.episodes import baseline_masks
from ldis_jax.evaluators.mean_iou import episode_areas
from ldis_jax.input_pipeline import episodes_hash, read_manifest
from ldis_jax.weights.model_folder import model_hash
from tests.helpers import ROOT, SHARED, call_command

MANIFESTS = ROOT / "ldis_jax" / "evaluation" / "manifests"
COCO_MINI = SHARED / "coco_mini"


def test_coco_fold_and_pascal_fold_part_the_classes():
    for fold_of, count in ((coco_fold, 80), (pascal_fold, 20)):
        folds = [set(fold_of(fold)) for fold in range(4)]
        assert set.union(*folds) == set(range(1, count + 1))
        assert sum(map(len, folds)) == count
    assert pascal_fold(1) == (6, 7, 8, 9, 10)


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="shared data are not here")
def test_coco_fold_gives_the_public_folds():
    folds = json.loads((COCO_MINI / "coco20i_folds.json").read_text())["folds"]
    assert {int(fold): tuple(labels) for fold, labels in folds.items()} == {f: coco_fold(f) for f in range(4)}


def test_protocols_name_every_fold_and_number_of_shots():
    assert {f"coco20i-fold{f}-{k}shot" for f in range(4) for k in (1, 5)} <= PROTOCOLS.keys()
    assert PROTOCOLS["pascal5i-fold3-5shot"] == Protocol(
        "pascal5i-fold3-5shot", "pascal", "val", "images", 5, (16, 17, 18, 19, 20), 1000, "hsnet"
    )


HEADER = {"benchmark": "b", "model_hash": "1"}
FACTS = {"model": "m", "model_hash": "1", "task": "ldis1", "settings": {}, "knows": "scenes", "domain": "unknown",
         "software": "none"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "digest"), [("mini-coco-1shot", "61db39831e59cae7"), ("mini-coco-5shot", "c5716fbc4a27a190")]
)
def test_manifests_of_the_package_are_frozen(name, digest):
    """Figures of one hash compare; another hash would be another benchmark under the same name."""
    protocol = PROTOCOLS[name]
    records = read_manifest(MANIFESTS / f"{name}.json")
    assert episodes_hash(records) == digest
    assert {len(record.prompts) for record in records} == {protocol.num_shots}
    if COCO_MINI.is_dir():
        assert draw_episodes(open_source(COCO_MINI, protocol), protocol) == records
        assert open_episodes(open_source(COCO_MINI, protocol), protocol).hash == digest


class TestRecords:
    def test_records_go_on_where_they_stopped(self, tmp_path):
        path = tmp_path / "deep" / "x.jsonl"
        with Records(path, HEADER) as records:
            records.append({"i": 0})
            records.append({"i": 1})
        with open(path, "ab") as file:
            file.write(b'{"i": 2')  # cut off
        with Records(path, HEADER) as records:
            assert records.records == [{"i": 0}, {"i": 1}]
            records.append({"i": 2})
        assert [json.loads(line) for line in path.read_text().splitlines()][1:] == [{"i": 0}, {"i": 1}, {"i": 2}]

    def test_records_reject_those_of_another_evaluation(self, tmp_path):
        with Records(tmp_path / "x", HEADER) as records:
            records.append({"i": 0})
        before = (tmp_path / "x").read_bytes()
        with pytest.raises(LDISError, match=r"holds another evaluation .model_hash: '1', now '2'.; remove it"):
            Records(tmp_path / "x", {**HEADER, "model_hash": "2"})
        assert (tmp_path / "x").read_bytes() == before

    def test_records_move_unfinished_ones_of_another_evaluation_aside(self, tmp_path, caplog):
        with Records(tmp_path / "x.jsonl", HEADER) as records:
            records.append({"i": 0})
        before = (tmp_path / "x.jsonl").read_bytes()
        with Records(tmp_path / "x.jsonl", {**HEADER, "model_hash": "2"}, finished=False) as records:
            assert records.records == []
            records.append({"i": 5})
        assert (tmp_path / "x.unfinished.jsonl").read_bytes() == before
        assert "not finished (model_hash: '1', now '2'); moved to x.unfinished.jsonl" in caplog.text
        with Records(tmp_path / "x.jsonl", {**HEADER, "model_hash": "2"}) as records:
            assert records.records == [{"i": 5}]

    def test_records_leave_no_file_of_a_run_that_failed_before_its_first(self, tmp_path):
        with pytest.raises(ZeroDivisionError), Records(tmp_path / "x", HEADER):
            assert (tmp_path / "x").exists()
            _ = 1 / 0
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("content", [b"nonsense\n", b"[1]\n", b"\xff\n"])
    @pytest.mark.parametrize("finished", [True, False])
    def test_records_leave_a_strange_file_alone(self, tmp_path, content, finished):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(LDISError, match=r"x: holds another evaluation .no records that can be read.; remove it"):
            Records(tmp_path / "x", HEADER, finished=finished)
        assert (tmp_path / "x").read_bytes() == content

    @pytest.mark.parametrize("record", ['{"i": "1"}', '{"i": 1, "i": 2}', "[1]", "null", '{"i": %s}' % (400 * "9")])
    def test_records_of_another_form_are_not_gone_on_with(self, tmp_path, record):
        (tmp_path / "x").write_text(f"{json.dumps(HEADER)}\n{record}\n")
        with pytest.raises(LDISError, match=r"x: holds another evaluation .no records that can be read.; remove it"):
            Records(tmp_path / "x", HEADER, dict[str, int])


def random_records(count, seed=0):
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        prediction, truth = rng.integers(0, 2, (2, 8, 8))
        areas = episode_areas(prediction == 1, truth.astype(np.uint8))
        records.append({"class_id": int(rng.integers(1, 6)), "areas": areas.tolist(), "pair": (prediction, truth)})
    return records


@pytest.mark.parametrize("accumulation", ["ldis", "hsnet"])
def test_image_figures_are_mean_ious(accumulation):
    records = random_records(60)
    metric = MeanIoU(accumulation)
    for record in records:
        metric.update(record["pair"][0] == 1, record["pair"][1].astype(np.uint8), record["class_id"])
    found, truth = image_figures(records, accumulation), metric.result()
    for key in ("miou", "fb_iou"):
        assert found[key] == pytest.approx(truth[key], abs=1e-9)
        low, high = found[f"{key}_interval"]
        assert low < found[key] < high
    assert found["iou_per_class"] == pytest.approx(truth["iou_per_class"])
    assert found == image_figures(records, accumulation)


def test_image_figures_of_one_item_have_no_interval():
    assert image_figures(random_records(1), "ldis")["miou_interval"] is None


def test_image_figures_have_intervals_that_cover_as_they_say():
    """Of 200 repetitions about 95 % of the intervals hold the figure of a large sample."""
    truth = image_figures(random_records(5000, seed=1), "ldis")["miou"]
    hits = 0
    for seed in range(200):
        low, high = image_figures(random_records(60, seed=10 + seed), "ldis")["miou_interval"]
        hits += low <= truth <= high
    assert 0.85 < hits / 200 <= 1.0


def test_image_figures_have_intervals_that_shrink_with_episodes():
    def width(count):
        low, high = image_figures(random_records(count), "ldis")["miou_interval"]
        return high - low

    assert width(1600) == pytest.approx(width(100) / 4, rel=0.35)


def test_ranked():
    records = [{"areas": [[0, 1], [i, 10]]} for i in range(10)] + [{"areas": [[1, 1], [0, 0]]}]
    assert ranked(records) == {"best": [9, 8, 7, 6], "median": [6, 5, 4, 3], "worst": [0, 1, 2, 3]}
    assert ranked(records[:2]) == {"best": [1, 0], "median": [1, 0], "worst": [0, 1]}


@pytest.mark.parametrize(
    ("sets", "classes", "expected"),
    [
        ({}, (), "unknown"),
        ({"scenes": ()}, (1, 2), "out-of-domain: trained on scenes"),
        ({"coco": (), "pascal": ()}, (1, 2), "in-domain: trained on coco and its tested classes"),
        ({"coco": (3, 4)}, (1, 2), "strict: trained on coco, on none of the 2 tested classes"),
        ({"coco": (2, 3)}, (1, 2), "in-domain: trained on coco and on 1 of the 2 tested classes"),
        ({"coco": (2, 3)}, (), "in-domain"),
    ],
)
def test_domain(sets, classes, expected):
    assert domain(sets, "coco", classes).startswith(expected)


def test_model_hash_follows_weights_and_configs(tmp_path, micro_folder):
    import shutil

    folder = shutil.copytree(micro_folder, tmp_path / "model")
    first = model_hash(folder)
    assert first == model_hash(micro_folder) and re.fullmatch(r"[0-9a-f]{16}", first)
    (folder / "README.md").write_text("another card")
    assert model_hash(folder) == first
    shutil.move(folder / "unet", tmp_path / "elsewhere")
    (folder / "unet").symlink_to(tmp_path / "elsewhere")
    assert model_hash(folder) == first
    (folder / "vae" / "loop").symlink_to(folder)
    (folder / "loop").symlink_to("loop")
    assert model_hash(folder) == first
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    second = model_hash(folder)
    assert second != first
    (folder / "ldis_config.json").write_text((folder / "ldis_config.json").read_text() + " ")
    assert model_hash(folder) not in (first, second)


def test_open_episodes_draws_its_own_or_takes_a_manifest_that_fits(voc, tmp_path):
    protocol = Protocol("p", "voc", classes=(1,), episodes=3)
    source = open_source(voc, Protocol("p", "voc"))
    drawn = open_episodes(open_source(voc, protocol), protocol)
    assert len(drawn) == 3 and drawn.hash == open_episodes(open_source(voc, protocol), protocol).hash
    assert {drawn[i].class_id for i in range(3)} == {1}
    entry = {"class_id": 2, "class_name": "dog", "query": "picture1", "prompts": ["picture3"]}
    path = tmp_path / "m.json"
    path.write_text(json.dumps([entry]))
    assert open_episodes(source, Protocol("p", "voc"), path)[0].class_name == "dog"
    with pytest.raises(LDISError, match=r"has 1 prompts of class 2, p needs 1 of \[1\]"):
        open_episodes(source, protocol, path)
    with pytest.raises(LDISError, match="episode 0 has 1 prompts of class 2, five needs 5 of"):
        open_episodes(source, Protocol("five", "voc", num_shots=5), path)


def test_open_episodes_takes_every_image_as_a_query_once(voc):
    episodes = open_episodes(open_source(voc, Protocol("p", "voc")), Protocol("p", "voc"))
    assert sorted(episodes[i].name for i in range(len(episodes))) == [f"picture{i}" for i in range(10)]


@pytest.fixture
def command(micro_folder, voc, tmp_path, monkeypatch, capsys):
    """Runs ``python -m ldis_jax.evaluate`` on a benchmark of the folder: (status, output, errors)."""
    monkeypatch.setitem(PROTOCOLS, "toy", Protocol("toy", "voc", episodes=7))

    def call(**changes):
        arguments = {"model": micro_folder, "benchmark": "toy", "data": voc, "out": tmp_path / "out" / "r.json",
                     "batch_size": 3} | changes  # fmt: skip
        return call_command(evaluate.main, monkeypatch, capsys, *(f"--{k}={v}" for k, v in arguments.items()))

    return call


def test_evaluate_writes_a_report_and_its_page(command, voc, tmp_path, micro_folder):
    status, out, err = command()
    assert status == 0, err
    report = json.loads((tmp_path / "out" / "r.json").read_text())
    assert report["benchmark"] == "toy" and report["episodes"] == 7 and report["num_shots"] == 1
    assert report["model_hash"] == model_hash(micro_folder) and report["knows"] == ""
    assert report["domain"].startswith("unknown") and report["accumulation"] == "ldis"
    assert 0 <= report["miou_interval"][0] <= report["miou"] <= report["miou_interval"][1] <= 100
    assert set(report["iou_per_class"]) <= {"cat", "dog"}
    assert f"miou {report['miou']:.2f} (" in out and report["episodes_hash"] in out
    episodes = open_episodes(open_source(voc, PROTOCOLS["toy"]), PROTOCOLS["toy"])
    metric = MeanIoU("ldis")
    for i in range(7):
        metric.update(baseline_masks(episodes[i])["copy_prompt"], episodes[i].query_mask, episodes[i].class_id)
    assert report["baselines"]["copy_prompt"]["miou"] == pytest.approx(metric.result()["miou"])
    page = (tmp_path / "out" / "r.md").read_text()
    pictures = re.findall(r"\]\((r/\w+\.png)\)", page)
    assert len(pictures) == 5 and all((tmp_path / "out" / name).is_file() for name in pictures)
    assert f"| this model | {report['miou']:.2f} (" in page


def test_evaluate_writes_the_report_alone_to_a_pipe(command, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = sorted(tmp_path.rglob("*"))
    with open(os.open(pipe, os.O_RDWR | os.O_NONBLOCK), encoding="utf-8") as file:
        status, out, err = command(out=pipe)
        assert status == 0, err
        assert json.loads(file.read())["episodes"] == 7 and out.endswith(f"{pipe}\n")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("done", [0, 2, 3, 7])
def test_evaluate_goes_on_to_the_same_report_when_it_was_cut_off(command, tmp_path, monkeypatch, done):
    assert command()[0] == 0
    whole = (tmp_path / "out" / "r.json").read_bytes()
    records = tmp_path / "out" / "r.records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "r.records.jsonl").write_bytes(b"".join(lines[: 1 + done]) + b'{"half')
    seen = []
    real = run_module.predict_episodes

    def watched(*args, **kwargs):
        seen.extend(kwargs["indices"])
        return real(*args, **kwargs)

    monkeypatch.setattr(run_module, "predict_episodes", watched)
    assert command(out=tmp_path / "again" / "r.json")[0] == 0
    assert seen == list(range(done, 7))
    assert (tmp_path / "again" / "r.json").read_bytes() == whole
    assert (tmp_path / "again" / "r.records.jsonl").read_bytes() == records.read_bytes()


def test_evaluate_gives_the_same_whatever_the_batch_size(command, tmp_path):
    assert command()[0] == 0
    assert command(out=tmp_path / "b.json", batch_size=7)[0] == 0
    a, b = (json.loads(path.read_text()) for path in (tmp_path / "out" / "r.json", tmp_path / "b.json"))
    assert a["miou"] == pytest.approx(b["miou"], abs=1e-6) and a["episodes_hash"] == b["episodes_hash"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "nothing"}, "--benchmark: invalid choice: 'nothing' (choose from 'ldis-pascal', "),
        ({"data": "nowhere"}, "nowhere/ImageSets/Segmentation/val.txt: cannot be read"),
        ({"model": "nowhere"}, "'nowhere': no such folder"),
        ({"batch_size": 0}, "--batch_size=0: must be an integer of at least 1"),
        ({"batch_size": 10**6}, "--batch_size=1000000: must be an integer of at least 1 and at most 65536"),
        ({"num_steps": 3}, "--num_steps: an option of LDIS-n"),
        ({"manifest": "none.json"}, "none.json, an episode manifest"),
    ],
)
def test_evaluate_rejects_bad_input_in_one_line(command, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, _, err = command(**changes)
    assert status == 2 and message in err and err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_rejects_an_ldisn_flag_out_of_range_in_one_line(command, micro_folder_ldisn):
    status, _, err = command(model=micro_folder_ldisn, num_steps=0)
    assert status == 2 and "--num_steps: no ldisn can have num_steps=0" in err and err.count("\n") == 1


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="shared data are not here")
@pytest.mark.parametrize("split", ["val", "trainval"])
def test_evaluate_images_gives_copy_prompt_the_figure_of_hsnets_own_code(split, tmp_path):
    oracle = json.loads((COCO_MINI / f"episodes/oracle_copy_prompt_{split}_1shot.json").read_text())
    protocol = dataclasses.replace(PROTOCOLS["mini-coco-1shot"], split=split)
    source = open_source(COCO_MINI, protocol)
    episodes = open_episodes(source, protocol, COCO_MINI / "episodes" / oracle["episodes"])
    subject = Subject(FACTS, lambda batch: np.zeros_like(batch["query_image"]), 8, 16)
    report = run_module.evaluate_images(protocol, episodes, subject, tmp_path / "r.json")
    found = report["baselines"]["copy_prompt"]
    assert report["episodes"] == oracle["n_episodes"] and len(found["iou_per_class"]) == oracle["n_classes"]
    assert found["miou"] == pytest.approx(oracle["mIoU"], abs=1e-3)
    assert found["fb_iou"] == pytest.approx(oracle["FB_IoU"], abs=1e-3)
    by_name = {source.class_names[int(label)]: 100 * value for label, value in oracle["iou_per_class"].items()}
    assert found["iou_per_class"] == pytest.approx(by_name, abs=1e-3)
