"""The experiments of docs/evidence.md: their data, a run of each kind, the statistics, and the page."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.evidence import claims, pictures, plots, probes, report, small_data, sweep
from benchmarks.evidence.claims import Comparison, evidence
from benchmarks.evidence.figures import Contrast, Count, Estimate, Results
from ldis_jax.input_pipeline import make_source
from ldis_jax.weights.model_folder import model_hash
from tests.compile_flags import QUICK
from tests.helpers import ROOT, call_command, load_script, paint_pair

FILE = load_script(ROOT / "configs" / "evidence.py")
SHORT = ["--config.train_steps=2", "--config.eval_every=2", "--config.eval.prompt_swap=2", "--config.eval.pictures=0"]


def test_variants_are_all_run_and_have_the_same_budget():
    assert FILE.VARIANTS.keys() == set(sweep.VARIANTS) and sweep.PROBES.keys() <= FILE.VARIANTS.keys()
    assert "sweep.py --only VARIANT\n" in FILE.__doc__
    configs = {name: FILE.get_config(name) for name in sorted(FILE.VARIANTS)}
    assert {(c.train_steps, c.batch_size, c.num_shots) for c in configs.values()} == {(500, 16, 1)}
    assert len({c.to_json() for c in configs.values()}) == len(configs)
    for name, config in configs.items():
        assert re.search(rf"^{name} +\S", FILE.__doc__, re.MULTILINE)
        assert config.task.task == ("ldisn" if name.startswith("ldisn") else "ldis1")


def test_tiny_config_is_one_of_the_variants():
    tiny = load_script(ROOT / "configs" / "tiny.py").get_config()
    shipped, ours = (json.loads(config.to_json()) for config in (tiny, FILE.get_config("ldis1")))
    assert {key for key in shipped if shipped[key] != ours[key]} == {"eval", "eval_every", "checkpoint_every"}


@pytest.fixture
def sources(tmp_path):
    """The three small sets, in the layouts that they come in."""
    coco, davis, camvid = (tmp_path / "source" / name for name in ("coco_mini", "davis", "camvid_vspw"))
    for i in range(4):
        size = (600, 400) if i == 0 else (40, 30)
        paint_pair(coco / f"JPEGImages/{i}.jpg", coco / f"SegmentationClass/{i}.png", 7, size)
    (coco / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in (("train", "0\n1\n"), ("val", "2\n3\n")):
        (coco / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    (coco / "classes.json").write_text(json.dumps({"names": ["background"]}))
    for sequence in ("bear", *small_data.HELD_OUT):
        for i in range(3):
            name = f"480p/{sequence}/{i:05}"
            paint_pair(davis / f"JPEGImages/{name}.jpg", davis / f"Annotations/{name}.png", 1)
    for i in range(75):
        video = camvid / "data/0006R0"
        paint_pair(video / f"origin/{i:08}.jpg", video / f"mask/{i:08}.png", 3)
    (camvid / "classes.json").write_text(json.dumps({"names": ["background"]}))
    return tmp_path / "source"


def test_small_data(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert call_command(small_data.main, monkeypatch, capsys, f"--source={sources}")[0] == 0
    for name in ("joint", "only_semantic"):
        config = FILE.get_config(name)
        for entries in (config.data.sources, {key: entry.source for key, entry in config.eval.sets.items()}):
            episodes = make_source(entries, 128)
            assert episodes.draw(np.random.default_rng(0), 1).query_mask.any()
    train = make_source({"x": FILE.get_config("joint").data.sources.images}, 128)
    assert max(max(train.draw(np.random.default_rng(i), 1).query_mask.shape) for i in range(8)) == small_data.LONG_SIDE
    held_out = make_source({"x": FILE.get_config("joint").eval.sets.objects.source}, 128)
    assert {name.decode().split("/")[0] for name in held_out.index.names} == set(small_data.HELD_OUT)
    joint = FILE.get_config("joint")
    semantic = {"train": joint.data.sources.semantic, "val": joint.eval.sets.semantic.source}
    frames = {split: make_source({"x": entry}, 128).num_images for split, entry in semantic.items()}
    assert frames == {"train": 60, "val": 5}
    status, _, err = call_command(small_data.main, monkeypatch, capsys, "--source=nowhere")
    assert status == 2 and err == "error: --source=nowhere: has no folder coco_mini\n"


@pytest.fixture
def quick_sweep(tmp_path, monkeypatch):
    """The sweep in a folder of its own, with runs of two steps."""
    real = sweep.subprocess.run

    def run(command, **options):
        few = [f"--config.eval.sets.{name}.episodes=2" for name in ("unseen", "seen")]
        return real([*command, *SHORT, *few, "--config.batch_size=2", "--config.eval.batch_size=2"], **options)

    monkeypatch.setattr(sweep.subprocess, "run", run)
    monkeypatch.setattr(sweep, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sweep, "PROBE_EPISODES", 2)
    monkeypatch.setattr(probes, "SHOTS", (1, 2))
    monkeypatch.setattr(probes, "_BATCH", 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setitem(os.environ, "XLA_FLAGS", QUICK)
    two = ({"sampler": "ddpm", "num_steps": 2}, {"sampler": "ddim", "num_steps": 1})
    monkeypatch.setattr(probes.fewer_steps, "variants", lambda: two)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quick_sweep")
def test_sweep_runs_a_variant_once(monkeypatch, capsys):
    monkeypatch.setattr(sweep, "SEEDS", (5,))
    arguments = ("--minutes=30", "--only", "ldisn")
    status, out, err = call_command(sweep.main, monkeypatch, capsys, *arguments)
    assert status == 0 and out.startswith("ldisn-5: mIoU "), err
    path = sweep.RESULTS / "ldisn-5.json"
    result = json.loads(path.read_text())
    assert result["model_hash"] == model_hash(Path("runs/evidence/ldisn-5/model"))
    assert result["report"]["steps"] == 2 and result["shots"].keys() == {"1", "2"} and len(result["sampling"]) == 2
    assert all(0 <= value <= 100 for where in result["wrong_prompts"].values() for value in where.values())
    with Image.open(path.with_suffix(".png")) as painted:
        assert painted.size == (64 * pictures.COUNT, 64)
    kept = path.stat().st_mtime_ns
    assert call_command(sweep.main, monkeypatch, capsys, *arguments) == (0, "", "")
    assert path.stat().st_mtime_ns == kept
    found = dict(evidence(Results(sweep.RESULTS)))
    there = [e.key for e in found.values() if e.rows]
    assert there == ["targets", "architectures", "prompts", "sampling", "unseen"]


def test_probe_absence_measures_what_scores_are_worth(micro_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "_SCORED", 12)
    found = probes.Probe(micro_folder, 2).absence()
    assert 0 <= found["auroc"] <= 1 and 0 <= found["ece"] <= 1
    assert sum(count for *_, count in found["reliability"]) == 12
    curve = [found["curve"][threshold] for threshold in sorted(found["curve"], key=float)]
    assert [point["empty"] for point in curve] == sorted(point["empty"] for point in curve)
    assert [point["miou"] for point in curve] == sorted((point["miou"] for point in curve), reverse=True)

    for i, variant in enumerate(claims.SCORED.values()):
        for seed in (1, 2):
            ours = found | {"auroc": 0.5 + 0.1 * i + 0.01 * seed}
            result = {"variant": variant, "seed": seed, "absence": ours}
            (tmp_path / f"{variant}-{seed}.json").write_text(json.dumps(result))
    results = Results(tmp_path)
    shown = claims.absent(results)
    gains = {comparison.says: comparison.gain.mean for comparison in shown.comparisons}
    assert gains["LDIS-n: a tenth absent raises the AUROC"] == pytest.approx(10.0)
    assert gains["LDIS-1: a tenth absent empties more of their masks"] == 0
    plots.plot_tradeoff(results, tmp_path / "tradeoff.png")
    with Image.open(tmp_path / "tradeoff.png") as image:
        assert image.size == (792, 396)


def test_estimate_interval_decides_the_verdict_of_a_comparison():
    # Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), Student's quantile of two degrees of freedom 4.303.
    estimate = Estimate((1.0, 2.0, 3.0))
    assert estimate.mean == 2 and estimate.half == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert estimate.text() == "2.0 ± 2.5" and estimate.text(signed=True) == "+2.0 ± 2.5"
    verdicts = {values: Comparison("", Estimate(values)).verdict for values in (
        (1.0, 2.0, 3.0), (5.0, 5.5, 6.0), (-5.0, -5.5, -6.0), (5.0,)
    )}  # fmt: skip
    assert list(verdicts.values()) == ["not decided", "holds", "does not hold", "one seed"]


@pytest.mark.parametrize(("gains", "verdict"), [
    ((5.0, 5.0), "holds"), ((5.0, 0.0), "in part"), ((5.0, -5.0), "in part"), ((0.0, -5.0), "does not hold"),
    ((0.0, 0.0), "not decided"), ((), "no result yet"),
])  # fmt: skip
def test_evidence_verdict_follows_its_comparisons(tmp_path, gains, verdict):
    sentences = [Comparison(str(gain), Estimate((gain - 0.1, gain, gain + 0.1))) for gain in gains]
    found = dataclasses.replace(next(evidence(Results(tmp_path)))[1], comparisons=sentences)
    assert found.verdict == verdict and found.saying("holds") == [str(gain) for gain in gains if gain > 0]


def test_results_gain_compares_equal_seeds(tmp_path):
    for variant, seeds in {"a": {1: 10.0, 2: 40.0, 3: 70.0}, "b": {2: 45.0, 3: 74.0, 4: 0.0}}.items():
        for seed, value in seeds.items():
            result = {"variant": variant, "seed": seed, "value": value}
            (tmp_path / f"{variant}-{seed}.json").write_text(json.dumps(result))
    results = Results(tmp_path)
    gain = results.gain("a", "b", lambda result: result["value"])
    assert gain.values == (5.0, 4.0) and results.of("a", lambda result: result["value"]).mean == 40
    assert results.has("a", "b") and not results.has("a", "c")


def test_results_contrast_compares_runs_that_share_nothing_by_their_means(tmp_path):
    for variant, values in {"a": (1.0, 2.0, 3.0), "b": (6.0, 4.0, 8.0)}.items():
        for seed, value in enumerate(values, start=1):
            result = {"variant": variant, "seed": seed, "value": value}
            (tmp_path / f"{variant}-{seed}.json").write_text(json.dumps(result))
    contrast = Results(tmp_path).contrast("a", "b", lambda result: result["value"])
    # Variances 1/3 and 4/3 of the means; Welch's degrees of freedom (5/3)^2 / (1/18 + 16/18) = 50/17, quantile 3.218.
    assert contrast.mean == pytest.approx(4.0) and contrast.half == pytest.approx(3.218 * (5 / 3) ** 0.5, abs=5e-3)
    assert contrast.sign == (contrast.half < 4.0) and contrast.text(signed=True).startswith("+4.0 ± 4.")
    assert dataclasses.replace(contrast, others=(1.0,)).half is None


def test_evidence_verdict_ignores_what_was_measured_on_the_way(tmp_path):
    sentences = [Comparison("a", Estimate((4.9, 5.0, 5.1))), Comparison("b", Estimate((-4.9, -5.0, -5.1)), False)]
    found = dataclasses.replace(next(evidence(Results(tmp_path)))[1], comparisons=sentences)
    assert found.verdict == "holds" and found.saying("holds") == ["a"] and found.saying("does not hold") == []


def test_joint_training_has_a_row_of_what_mixtures_start_from(tmp_path):
    for seed in (1, 2):
        sets = {"images/miou": 2.0 * seed, "semantic/miou": 4.0, "scenes/miou": 50.0}
        report = {"evaluation_set": "objects", "miou": 30.0 + seed, "other_sets": sets}
        report["before"] = {"miou": 20.0, "other_sets": dict.fromkeys(sets, 5.0)}
        report["baselines"] = {"copy_prompt": {"miou": 8.0, "other_sets": dict.fromkeys(sets, 2.0)}}
        (tmp_path / f"joint-{seed}.json").write_text(json.dumps({"variant": "joint", "seed": seed, "report": report}))
    rows = dict(claims.joint_training(Results(tmp_path)).rows)
    assert [estimate.mean for estimate in rows["all three"]] == [3.0, 31.5, 4.0, 50.0]
    assert [estimate.values for estimate in rows["not fine-tuned"]] == [(5.0,), (20.0,), (5.0,), (5.0,)]
    assert [estimate.values for estimate in rows["copy prompt"]] == [(2.0,), (8.0,), (2.0,), (2.0,)]


def test_joint_training_decides_nothing_below_masks_that_need_no_network(tmp_path):
    sets = ("images", "objects", "semantic", "scenes")
    for variant, miou in {"joint": 9.0, "only_images": 12.0, "only_objects": 5.0, "only_semantic": 9.5}.items():
        for seed in (1, 2, 3):
            found = {f"{name}/miou": miou + 0.1 * seed for name in sets if name != "objects"}
            report = {"evaluation_set": "objects", "miou": miou + 0.1 * seed, "other_sets": found}
            trivial = {"miou": 8.0, "other_sets": {"images/miou": 11.0, "semantic/miou": 10.0, "scenes/miou": 1.0}}
            report |= {"before": trivial, "baselines": {"copy_prompt": trivial}}
            result = {"variant": variant, "seed": seed, "report": report}
            (tmp_path / f"{variant}-{seed}.json").write_text(json.dumps(result))
    found = claims.joint_training(Results(tmp_path))
    verdicts = [comparison.verdict for comparison in found.comparisons]
    assert verdicts == ["does not hold", "holds", "cannot be tested here"] and found.verdict == "in part"
    assert found.saying("cannot be tested here") == ["joint beats video semantic alone, on video semantic"]
    alone = dataclasses.replace(found, comparisons=found.comparisons[2:])
    assert alone.verdict == "cannot be tested here"


def test_evidence_page_is_that_of_the_results():
    text = report.PAGE.read_text(encoding="utf-8")
    results = Results(report.PLOTS / "results")
    assert report.page(text, results) == text, "run benchmarks/evidence/report.py"
    keys = [found.key for _, found in evidence(results)]
    assert all(f"<!-- evidence: {key} -->" in text for key in [*keys, "summary", "facts"])
    for _, found in evidence(results):
        assert not found.comparisons or (report.PLOTS / f"{found.key}.png").is_file()
        assert not found.painted or f"evidence/{found.key}_painted.png" in text


def test_sheet_shows_the_stored_predictions_of_variants(tmp_path):
    painted = np.arange(pictures.COUNT, dtype=np.uint8)[:, None, None, None] * np.full((1, 64, 64, 3), 40, np.uint8)
    pictures.store(painted, tmp_path / "a.png")
    shown = pictures.sheet({"a variant": tmp_path / "a.png"})
    below = shown[-100, np.arange(pictures.COUNT) * (shown.shape[1] // pictures.COUNT) + 80]
    np.testing.assert_array_equal(below, painted[:, 0, 0])
    assert len(pictures.episodes()) == pictures.COUNT


def test_evidence_verdict_says_nothing_of_a_variant_without_its_rival(tmp_path):
    found = dataclasses.replace(next(evidence(Results(tmp_path)))[1], rows=[("alone", [Estimate((1.0,))])])
    assert found.verdict == "no result yet" and report.block(found) == "No result yet.\n"


@pytest.mark.parametrize("kind", [{}, {"curve": "number of prompts"}, {"plotted": ("mIoU", "other")}])
def test_plot_draws_every_kind_of_evidence(tmp_path, kind):
    rows = [(str(k), [Estimate((1.0 * k, 2.0 * k)), Estimate((3.0,))]) for k in (1, 5)]
    sentences = [
        Comparison("a", Estimate((1.0, 2.0))),
        Comparison("b", Contrast((1.0, 2.0), (3.0, 5.0)), testable=False),
    ]
    found = dataclasses.replace(next(evidence(Results(tmp_path)))[1], rows=rows, columns=("variant", "mIoU", "other"))
    plots.plot(dataclasses.replace(found, comparisons=sentences, **kind), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_columns_of_a_plot_are_those_that_differ_by_seed(tmp_path):
    rows = [("a", [Count((20.0,)), Estimate((1.0, 2.0))])]
    columns = ("options", "evaluations", "mIoU")
    found = dataclasses.replace(next(evidence(Results(tmp_path)))[1], rows=rows, columns=columns)
    assert plots.columns(found) == ("mIoU",)
    assert plots.columns(dataclasses.replace(found, plotted=("evaluations",))) == ("evaluations",)
