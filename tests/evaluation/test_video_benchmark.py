"""Benchmarks of videos: propagation of the first frame's labels, records, figures, the command."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from ldis_jax import evaluate
from ldis_jax.evaluation.protocols import PROTOCOLS, Protocol
from ldis_jax.evaluation.report import Subject, ranked_videos
from ldis_jax.evaluation.run import evaluate_videos
from ldis_jax.evaluation.video_benchmark import (
    VideoLabels,
    prompts_of,
    segment_frames,
    segment_videos,
    videos_hash,
)
from ldis_jax.evaluation.video_measures import MEASURES
from ldis_jax.evaluators import DavisMetrics, VSPWMetrics
from ldis_jax.input_pipeline import RecordSource
from ldis_jax.media.masks import read_label_map
from ldis_jax.support.cli import run
from tests.evaluation.painted import ROOT, Painted, build, by_colour, write_davis, write_vspw
from tests.helpers import call_command

SIZE = 16
DAVIS = ROOT / "../shared/data/davis"


@pytest.mark.parametrize("labels", [(1,), (1, 3)])
def test_segment_videos_propagates_labels(labels):
    source = Painted(labels)
    ((_, (_, predicted, truth)),) = segment_videos(by_colour, source, ["clip"], SIZE, batch_size=5)
    assert predicted.shape == truth.shape == (11, 24, 32)
    np.testing.assert_array_equal(truth, source.truth("clip")[1:])
    assert set(np.unique(predicted)) == {0, *labels}
    inside = truth != 255
    assert (predicted == truth)[inside].mean() > 0.9


def test_prompts_of_leaves_out_objects_too_small_to_see():
    labels = np.zeros((64, 64), np.uint8)
    labels[:20, :20], labels[41, 41], labels[50:] = 1, 2, 255
    found = prompts_of(np.zeros((64, 64, 3), np.uint8), labels, SIZE)
    assert list(found) == [1] and set(np.unique(found[1]["prompt_masks"])) == {0, 1, 255}
    tiled = prompts_of(np.zeros((64, 64, 3), np.uint8), labels, SIZE, tile=0.25)
    assert list(tiled) == [1, 2] and tiled[2]["prompt_masks"].shape == (1, SIZE, SIZE)


def test_videos_hash_follows_names_and_lengths():
    first = videos_hash(Painted((1,)))
    assert first == videos_hash(Painted((2,))) != videos_hash(Painted((1,), frames=13))


def random_videos(count):
    rng = np.random.default_rng(1)
    videos = {}
    for i in range(count):
        still = rng.integers(0, 3, (2, 1, 6, 7))
        moving = rng.integers(0, 3, (2, 20 + i, 6, 7))
        change = rng.random(moving.shape) < 0.02  # else no label would stay for 16 frames
        videos[f"v{i}"] = np.where(change, moving, still).astype(np.uint8)
    return videos


def test_object_videos_figures_are_those_of_davis():
    """Every object of a first frame counts alike, whatever video it is in, as in davis2017-evaluation."""
    videos, metrics = random_videos(4), DavisMetrics()
    videos["v0"][1][:] = np.where(videos["v0"][1] == 2, 0, videos["v0"][1])  # DAVIS 2016: one object
    records = []
    for name, (predicted, truth) in videos.items():
        for label in np.unique(truth[0])[1:]:
            metrics.update(f"{name}_{label}", predicted == label, truth == label)
        # The measure is given all frames but the first, which the protocol leaves out as well.
        labels = VideoLabels(truth[0], predicted[1:], truth[1:])
        records.append(MEASURES["objects"].record(name, labels))
    assert [list(record["objects"]) for record in records] == [["1"], *[["1", "2"]] * 3]
    records = json.loads(json.dumps(records))
    found, truth = MEASURES["objects"].figures(records), metrics.result()
    per_object = truth.pop("per_sequence")
    assert found["per_object"].keys() == per_object.keys()
    for name, figures in per_object.items():
        assert found["per_object"][name] == pytest.approx(figures)
    assert found["per_video"]["v0"] == pytest.approx(per_object["v0_1"])
    assert found["per_video"]["v1"]["f_mean"] == pytest.approx(
        (per_object["v1_1"]["f_mean"] + per_object["v1_2"]["f_mean"]) / 2
    )
    assert {key: found[key] for key in truth} == pytest.approx(truth)
    low, high = found["j_mean_interval"]
    assert low < found["j_mean"] < high


def test_semantic_videos_figures_are_those_of_vspw():
    videos = random_videos(4)
    records = json.loads(
        json.dumps([MEASURES["semantic"].record(n, VideoLabels(v[1][0], *v)) for n, v in videos.items()])
    )
    found = MEASURES["semantic"].figures(records)
    for rules, suffix in {"all_windows": "", "vspw_code": "_vspw_code"}.items():
        metrics = VSPWMetrics(rules=rules)
        for name, (predicted, truth) in videos.items():
            metrics.update(name, predicted, np.where(truth == 0, 255, truth))
        result = metrics.result()
        assert found["miou"] == pytest.approx(result["miou"])
        for n in (8, 16):
            assert found[f"vc{n}{suffix}"] == pytest.approx(result[f"vc{n}"])
    for name in ("miou", "vc8", "vc16"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high


def built(kind, root):
    """Records of one video of 20 frames in DAVIS's or VSPW's layout."""
    source = Painted((1,) if kind == "objects" else (1, 3), frames=20)
    if kind == "objects":
        return build("davis16", write_davis(source, root / "source", 2016), root)
    return build("vspw", write_vspw(source, root / "source"), root)


@pytest.mark.parametrize("kind", ["objects", "semantic"])
def test_evaluate_of_videos_writes_a_report_and_goes_on_when_it_was_cut_off(
    kind, micro_folder, tmp_path, monkeypatch, capsys
):
    root = built(kind, tmp_path)
    monkeypatch.setitem(PROTOCOLS, "toy", Protocol("toy", root.name, "val", kind))
    out = tmp_path / "out" / "r.json"
    arguments = ["evaluate", f"--model={micro_folder}", "--benchmark=toy", f"--data={root}", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", arguments)
    run(evaluate.main)
    report = json.loads(out.read_text())
    key = "j_and_f" if kind == "objects" else "miou"
    assert 0 <= report[key] <= 100 and report["videos"] >= 1
    assert report["baselines"]["repeat_first"].keys() >= {key, f"{key}_interval"}
    assert f"{key} {report[key]:.2f}" in capsys.readouterr().out
    page = out.with_suffix(".md").read_text()
    assert "| repeat first |" in page and "](r/0000.png)" in page
    assert np.asarray(Image.open(out.parent / "r" / "0000.png")).std() > 0
    whole, records = out.read_bytes(), out.with_suffix(".records.jsonl")
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:1]))
    run(evaluate.main)
    assert out.read_bytes() == whole

    summary = root / "val" / "1.0.0" / "index.json"
    facts = json.loads(summary.read_text())
    assert report["data_hash"] == facts["hash"]
    summary.write_text(json.dumps(facts | {"hash": "other masks"}))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(evaluate.main)
    assert "r.records.jsonl: holds another evaluation (data_hash: " in capsys.readouterr().err


def test_evaluate_of_videos_rejects_a_folder_without_built_records(micro_folder, tmp_path, monkeypatch, capsys):
    argv = ["evaluate", f"--model={micro_folder}", "--benchmark=mini-davis16", f"--data={tmp_path}", "--out=r.json"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        run(evaluate.main)
    err = capsys.readouterr().err
    assert "no built records of videos of split 'val', which mini-davis16 needs; python data/build.py davis16" in err


FACTS = {"model": "m", "model_hash": "1", "task": "ldis1", "settings": {}, "knows": "", "domain": "unknown",
         "software": "none"}  # fmt: skip


def evaluated(kind, source, tmp_path, predict=by_colour):
    """(report, page) of a benchmark of painted videos."""
    out = tmp_path / "r.json"
    evaluate_videos(Protocol("toy", "any", kind=kind), source, Subject(FACTS, predict, SIZE, 5), out)
    return json.loads(out.read_text()), out.with_suffix(".md").read_text()


def test_evaluate_videos_gives_a_note_on_videos_too_short_for_vc(tmp_path):
    report, page = evaluated("semantic", Painted({"a": (1,), "b": (2, 3)}, frames=9), tmp_path)
    assert report["miou"] > 80 and report["vc8"] > 80 and report["vc16"] is None
    assert report["baselines"]["repeat_first"]["vc16"] is None and report["vc16_interval"] is None
    # Eight frames are left of nine, and the public code leaves out each video's last window.
    assert report["vc8_vspw_code"] is None
    notes = [f"{n} has no value: no window of that many frames" for n in ("vc16", "vc8_vspw_code", "vc16_vspw_code")]
    assert [note.startswith(start) for note, start in zip(report["notes"], notes, strict=True)] == [True] * 3
    assert all(note in page for note in notes)
    assert re.search(r"\| this model \| [\d.]+ \([^|]*\| [\d.]+ \([^|]*\| none \| none \| none \|", page)


def test_semantic_videos_figures_of_one_video_with_a_window_have_no_interval():
    short, long = random_videos(2).items()
    records = [
        MEASURES["semantic"].record(name, VideoLabels(truth[0], predicted[:n], truth[:n]))
        for (name, (predicted, truth)), n in ((short, 9), (long, 20))
    ]
    found = MEASURES["semantic"].figures(records)
    assert found["vc16"] is not None and found["vc16_interval"] is None
    assert len(found["vc8_interval"]) == 2


def test_semantic_videos_figures_give_no_miou_to_a_video_of_void_alone():
    truth = np.full((9, 4, 4), 255, np.uint8)
    (name, (predicted, other)) = next(iter(random_videos(1).items()))
    records = [
        MEASURES["semantic"].record("void", VideoLabels(truth[0], truth, truth)),
        MEASURES["semantic"].record(name, VideoLabels(other[0], predicted, other)),
    ]
    per_video = MEASURES["semantic"].figures(records)["per_video"]
    assert per_video["void"] == {"miou": None}
    assert ranked_videos(per_video, "miou") == {"best": [name], "median": [name], "worst": [name]}


@pytest.mark.parametrize(("kind", "figure"), [("objects", "j_and_f"), ("semantic", "miou")])
def test_evaluate_videos_shows_the_best_median_and_worst_on_its_page(kind, figure, tmp_path):
    """Thirteen videos, in each of which another number of frames is predicted well."""
    source = Painted({f"v{i:02}": (1,) for i in range(13)}, frames=15)
    good = np.random.default_rng(0).permutation(13)
    # Batches come in order: fourteen frames a video, in the evaluation, and then four of each that is shown.
    calls = iter([*(t <= n for n in good for t in range(14)), *[True] * 100])

    def predict(batch):
        kept = np.array([next(calls) for _ in batch["index"]])
        return np.where(kept[:, None, None, None], by_colour(batch), -by_colour(batch))

    report, page = evaluated(kind, source, tmp_path, predict)
    values = {video: figures[figure] for video, figures in report["per_video"].items()}
    order = sorted(values, key=values.get)
    assert len(set(values.values())) == 13 and order != sorted(order)
    shown = re.findall(r"## (\w+) videos|!\[(v\d\d)\]\((r/\d{4}\.png)\)", page)
    sections: dict[str, list[str]] = {}
    for heading, video, path in shown:
        if heading:
            sections[heading] = current = []
        else:
            current.append(video)
            assert path == f"r/{list(source.videos).index(video):04}.png"
            assert np.asarray(Image.open(tmp_path / path)).std() > 0
    assert sections == {"Best": order[:-5:-1], "Median": order[8:4:-1], "Worst": order[:4]}
    assert (tmp_path / "r" / "bars.png").is_file() and "](r/bars.png)" in page
    assert report.get("iou_per_class", {"red": 0}).keys() == {"red"}


def test_evaluate_videos_counts_several_objects_a_video_of_davis_2017(micro_folder, tmp_path, monkeypatch, capsys):
    source = Painted({"one": (2,), "two": (1, 3)}, frames=6)
    root = build("davis16", write_davis(source, tmp_path / "source", 2017), tmp_path, "val2017")
    records = RecordSource(root, "val2017")
    np.testing.assert_array_equal(records.frame("two", 3)[1], source.truth("two")[3])
    report, _ = evaluated("objects", records, tmp_path)
    assert list(report["per_object"]) == ["one_2", "two_1", "two_3"]
    assert report["j_mean"] == pytest.approx(np.mean([v["j_mean"] for v in report["per_object"].values()]))
    assert report["j_mean"] > 50
    arguments = [
        f"--model={micro_folder}",
        "--benchmark=ldis-davis17",
        f"--data={root}",
        f"--out={tmp_path / 'c.json'}",
    ]
    assert call_command(evaluate.main, monkeypatch, capsys, *arguments)[0] == 0
    assert json.loads((tmp_path / "c.json").read_text())["per_object"].keys() == report["per_object"].keys()


def test_object_videos_record_counts_an_object_too_small_to_see_as_missed():
    source = Painted((1,), frames=6)
    truth = source.truth("clip").copy()
    truth[:, 0, 0] = 2
    record = MEASURES["objects"].record("clip", VideoLabels(truth[0], source.truth("clip")[1:], truth[1:]))
    assert record["objects"]["1"]["j_mean"] == 100 and record["objects"]["2"]["j_mean"] == 0


@pytest.mark.parametrize("length", [1, 2])
def test_segment_videos_leaves_out_short_and_empty_videos_in_their_place(length):
    source = Painted({"empty": (), "a": (1,), "short": (1,), "b": (1, 3), "void": ()}, frames=7)
    source.videos["short"] = length
    found = list(segment_videos(by_colour, source, list(source.videos), SIZE, 5))
    assert [video for video, _ in found] == list(source.videos)
    assert [video for video, labels in found if labels is None] == ["empty", "short", "void"]
    for video, labels in found:
        if labels is not None:
            ((_, (_, predicted, truth)),) = segment_videos(by_colour, source, [video], SIZE, 5)
            np.testing.assert_array_equal(labels.predicted, predicted)
            np.testing.assert_array_equal(labels.truth, truth)


def test_segment_frames_keeps_few_images_in_memory():
    """Reading keeps at most a batch ahead of what is with the network, however long the videos are."""
    source, batch_size = Painted((1,), frames=60), 5
    read, real = [], source.frame
    source.frame = lambda video, t: read.append(t) or real(video, t)
    for frame in segment_frames(by_colour, source, (("clip", t) for t in range(1, 60)), SIZE, batch_size):
        assert len(read) <= 1 + frame.time + 3 * batch_size


@pytest.mark.skipif(not DAVIS.is_dir(), reason="shared data are not here")
def test_object_videos_figures_of_the_baseline_on_davis_are_what_they_were():
    """Pinned: DAVIS 2016's figures do not depend on how several objects are counted."""
    records = []
    for folder in sorted((DAVIS / "Annotations/480p").iterdir()):
        truth = np.stack([read_label_map(path) for path in sorted(folder.iterdir())])
        labels = VideoLabels(truth[0], np.broadcast_to(truth[0], truth[1:].shape), truth[1:])
        records.append(MEASURES["objects"].record(folder.name, labels))
    found = MEASURES["objects"].figures(records)
    assert (found["j_mean"], found["f_mean"], found["j_and_f"]) == pytest.approx((26.90, 22.32, 24.61), abs=0.005)
    assert found["j_and_f_interval"] == pytest.approx([15.30, 34.15], abs=0.005)
