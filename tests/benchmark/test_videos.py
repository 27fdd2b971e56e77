"""Benchmarks of videos: propagation of the first frame's labels, records, figures, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldis_jax import evaluate
from ldis_jax.benchmark.protocols import PROTOCOLS, Protocol
from ldis_jax.benchmark.videos import MEASURES, objects_of, segment_video, videos_hash
from ldis_jax.cli import run
from ldis_jax.errors import LDISError
from ldis_jax.evaluators import DavisMetrics, VSPWMetrics

ROOT = Path(__file__).parents[2]
SIZE = 16
COLOURS = {1: (200, 30, 30), 2: (30, 200, 30), 3: (30, 30, 200)}


class Painted:
    """Videos whose objects are told by their colour, so that a perfect prediction needs no network."""

    def __init__(self, labels, frames=12):
        rng = np.random.default_rng(0)
        self._truth = np.zeros((frames, 24, 32), np.uint8)
        for label in labels:
            top, left = rng.integers(0, 10, 2)
            for t in range(frames):
                self._truth[t, top : top + 10, left + t // 2 : left + t // 2 + 12] = label
        self._truth[:, -1] = 255
        self.videos = {"clip": frames}

    def frame(self, video, index):
        truth = self._truth[index]
        picture = np.full((*truth.shape, 3), 90, np.uint8)
        for label, colour in COLOURS.items():
            picture[truth == label] = colour
        return picture, truth


def by_colour(batch):
    """Paints where the query has the prompted object's mean colour."""
    painted = []
    for query, images, masks in zip(batch["query_image"], batch["prompt_images"], batch["prompt_masks"], strict=True):
        colour = images[0][masks[0] == 1].mean(0)
        near = np.abs(query - colour).max(-1) < 0.5
        painted.append(np.where(near[..., None], (-1.0, 1.0, 0.0), (1.0, -1.0, 0.0)))
    assert len(painted) == 5
    return np.array(painted, np.float32)


@pytest.mark.parametrize("labels", [(1,), (1, 3)])
def test_labels_are_propagated(labels):
    source = Painted(labels)
    predicted, truth = segment_video(by_colour, source, "clip", SIZE, batch_size=5)
    assert predicted.shape == truth.shape == (11, 24, 32)
    np.testing.assert_array_equal(truth, source._truth[1:])
    assert set(np.unique(predicted)) == {0, *labels}
    inside = truth != 255
    assert (predicted == truth)[inside].mean() > 0.9


def test_objects_too_small_to_see_are_left_out():
    labels = np.zeros((64, 64), np.uint8)
    labels[:20, :20], labels[41, 41], labels[50:] = 1, 2, 255
    found = objects_of(labels, SIZE)
    assert list(found) == [1] and set(np.unique(found[1])) == {0, 1, 255}


def test_empty_first_frame_is_refused():
    source = Painted(())
    with pytest.raises(LDISError, match="video 'clip': too short, or no object in its first frame"):
        segment_video(by_colour, source, "clip", SIZE, 5)


def test_hash_follows_names_and_lengths():
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


def test_object_figures_are_daviss():
    videos, metrics = random_videos(4), DavisMetrics()
    records = []
    for name, (predicted, truth) in videos.items():
        metrics.update(name, predicted == 1, truth == 1)
        # The measure is given all frames but the first, which the protocol leaves out as well.
        records.append(MEASURES["objects"].record(name, predicted[1:], truth[1:]))
    records = json.loads(json.dumps(records))
    found, truth = MEASURES["objects"].figures(records), metrics.result()
    for video, figures in truth.pop("per_sequence").items():
        assert found["per_video"][video] == pytest.approx(figures)
    assert {key: found[key] for key in truth} == pytest.approx(truth)
    low, high = found["j_mean_interval"]
    assert low < found["j_mean"] < high


def test_semantic_figures_are_vspws():
    videos = random_videos(4)
    records = json.loads(json.dumps([MEASURES["semantic"].record(n, *v) for n, v in videos.items()]))
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
    source, name = Painted((1,) if kind == "objects" else (1, 3), frames=20), {"objects": "davis16"}.get(kind, "vspw")
    for t in range(20):
        image, mask = f"data/clip/origin/{t:05}.jpg", f"data/clip/mask/{t:05}.png"
        if name == "davis16":
            image, mask = f"JPEGImages/480p/clip/{t:05}.jpg", f"Annotations/480p/clip/{t:05}.png"
        for path, array in zip((image, mask), source.frame("clip", t), strict=True):
            (root / "source" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / "source" / path)
    listed = root / "source" / ("ImageSets/480p/val.txt" if name == "davis16" else "val.txt")
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("clip\n")
    command = [sys.executable, str(ROOT / "data" / "build.py"), name, f"--source={root / 'source'}"]
    command += [f"--out={root}", "--num_workers=0"]
    subprocess.run(command, check=True, capture_output=True)
    return root / name


@pytest.mark.parametrize("kind", ["objects", "semantic"])
def test_the_command(kind, micro_folder, tmp_path, monkeypatch, capsys):
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


def test_pictures_are_not_videos(micro_folder, tmp_path, monkeypatch, capsys):
    argv = ["evaluate", f"--model={micro_folder}", "--benchmark=mini-davis16", f"--data={tmp_path}", "--out=r.json"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        run(evaluate.main)
    assert "no built records of split 'val', which videos need; python data/build.py davis16" in capsys.readouterr().err
