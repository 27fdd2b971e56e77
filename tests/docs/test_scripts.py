"""Scripts that documents name and that take networks of full size, on the smallest ones."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from ldis_jax.tasks.confidence import Confidence
from ldis_jax.weights.model_folder import TASK_FILE, read_task, read_vae_config
from tests.compile_flags import QUICK
from tests.costs.test_compile import needs_libtpu
from tests.helpers import ROOT, load_script, paint_pair


def test_variants_benchmark_prints_the_costs_of_every_variant(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["variants.py", "--micro", "--batch=1"])
    load_script(ROOT / "benchmarks" / "variants.py").main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [
        *("the UNet", "LoRA 4, low-rank layers", "LoRA 4, merged in the step"),
        *("the pixel-space loss, remat 'none'", "the pixel-space loss, remat 'blocks'"),
    ]


def test_convert_benchmark_measures_seconds_and_memory(tmp_path):
    pytest.importorskip("transformers")
    out = tmp_path / "convert.json"
    command = [sys.executable, "benchmarks/convert.py", "--micro", f"--json={out}", f"--work={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    figures = json.loads(out.read_text())
    assert len(figures["rows"]) == 7 and all(row["peak_bytes"] > 0 for row in figures["rows"].values())
    ours, torch = (figures["rows"][f"{who} float32"]["seconds"] for who in ("ours", "torch"))
    assert figures["ratios"]["load seconds, ours / torch, float32"] == ours / torch
    assert list(tmp_path.iterdir()) == [out], "the weights are gone"


def test_checkpoint_benchmark_measures_what_a_save_costs(tmp_path):
    out = tmp_path / "checkpoint.json"
    command = [sys.executable, "benchmarks/checkpoint.py", "--config=tools/crash_config.py", "--every=2", "--pairs=3"]
    env = os.environ | {"XLA_FLAGS": QUICK}
    subprocess.run([*command, f"--json={out}"], cwd=ROOT, env=env, check=True, capture_output=True, timeout=300)
    figures = json.loads(out.read_text())
    assert {kind: len(values) for kind, values in figures["seconds_a_step"].items()} == {"with": 3, "without": 3}
    assert figures["state_bytes"] > 1e5 and len(figures["ratios"]) == 3
    assert load_script(ROOT / "tools" / "speed_tables.py").TABLES["checkpoint"](figures).count("\n") == 2


@pytest.mark.timeout(900)
def test_gpu_benchmark_runs_everything_that_a_gpu_will_be_asked(tmp_path):
    pytest.importorskip("diffusers")
    env = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path), "XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        ["benchmarks/gpu.sh", "--micro"], cwd=ROOT, env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    beside_torch = [found.pop(part) for part in ("ldis1/2", "ldisn/1/2", "train/2")]
    assert all(part["time_ratio"] > 0 and part["memory_ratio"] > 0 and part["tflop"] > 0 for part in beside_torch)
    assert found.keys() == {"matmul", "parity", "tiny training", "export"} and found["matmul"]["tflops"] > 0
    assert " passed" in found["parity"]["pytest"] and "failed" not in found["parity"]["pytest"]
    assert found["tiny training"]["steps"] == 8 and found["tiny training"]["steps_per_second"] > 0
    assert found["export"]["largest_difference"] < 1e-5


def test_explain_pictures_draws_every_sheet(micro_folder, micro_folder_ldisn, tmp_path, monkeypatch):
    script = load_script(ROOT / "tools" / "explain_pictures.py")
    for folder in (micro_folder, micro_folder_ldisn):
        monkeypatch.setattr(sys, "argv", ["explain_pictures.py", f"--model={folder}", f"--out={tmp_path}"])
        script.main()
    sheets = {path.stem: Image.open(path).size for path in tmp_path.iterdir()}
    assert sheets.keys() == {"prediction", "pseudo_masks", "tokens", "attention", "steps"}
    assert all(min(size) > 100 for size in sheets.values())

    calibrated, out = shutil.copytree(micro_folder, tmp_path / "calibrated"), tmp_path / "one"
    task = read_task(calibrated)
    task = dataclasses.replace(task, confidence=Confidence(3.0, (0.0, 1.0), (0.0, 1.0), min_score=0.3, episodes=8))
    (calibrated / TASK_FILE).write_text(json.dumps(task.to_dict()))
    out.mkdir()
    monkeypatch.setattr(sys, "argv", ["x", f"--model={calibrated}", f"--out={out}", "--only=leaving"])
    script.main()
    assert [path.name for path in out.iterdir()] == ["leaving.png"]


def test_fewer_steps_benchmark_measures_what_fewer_steps_cost(micro_folder_ldisn, tmp_path, monkeypatch, capsys):
    script = load_script(ROOT / "benchmarks" / "fewer_steps.py")
    two = ({"sampler": "ddpm", "num_steps": 2}, {"sampler": "ddim", "num_steps": 1, "guidance_end": 0.0})
    monkeypatch.setattr(script, "variants", lambda: two)
    out = tmp_path / "figures.json"
    arguments = [f"--model={micro_folder_ldisn}", "--episodes=3", "--batch_size=2", f"--json={out}"]
    monkeypatch.setattr(sys, "argv", ["fewer_steps.py", *arguments])
    script.main()
    figures = json.loads(out.read_text())
    first, second = figures["rows"]
    assert [row["evaluations"] for row in figures["rows"]] == [6, 1]
    assert first["r"] == 0 and first["masks"] == 100 and second["r"] > 1e-3
    assert capsys.readouterr().out.count("\n") == 4


def test_autoencoders_benchmark_measures_masks_through_an_autoencoder(micro_folder, tmp_path, monkeypatch, capsys):
    script = load_script(ROOT / "benchmarks" / "autoencoders.py")
    vae = read_vae_config(micro_folder / "vae")
    monkeypatch.setattr(script, "AutoencoderConfig", lambda: vae)
    for i in range(2):
        paint_pair(tmp_path / f"JPEGImages/{i}.jpg", tmp_path / f"SegmentationClass/{i}.png", 7)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("0\n1\n")
    out = tmp_path / "figures.json"
    arguments = [f"--vae={micro_folder / 'vae'}", f"--data={tmp_path}", "--episodes=2", "--repeats=1", f"--json={out}"]
    monkeypatch.setattr(sys, "argv", ["autoencoders.py", *arguments])
    script.main()
    figures = json.loads(out.read_text())
    ours, peer = figures["rows"]
    assert 0 <= ours["miou"] <= 100 and peer["miou"] is None and min(peer["encode_seconds"], ours["decode_seconds"]) > 0
    assert load_script(ROOT / "tools" / "speed_tables.py").TABLES["autoencoders"](figures).count("\n") == 3
    # An autoencoder that changes nothing loses nothing.
    same = SimpleNamespace(encode=lambda x: (x, 0 * x), decode=lambda z: z)
    monkeypatch.setattr(script.nnx, "split", lambda vae: (vae, None))
    monkeypatch.setattr(script.nnx, "merge", lambda graphdef, state: graphdef)
    assert script.surviving(same, tmp_path, "val", 2) == {"miou": 100.0, "fb_iou": 100.0}


def test_startup_benchmark_measures_the_wait_for_a_first_mask(micro_folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "figures.json"
    script = load_script(ROOT / "benchmarks" / "startup.py")
    monkeypatch.setattr(script, "COMMANDS", ("segment", "convert"))
    monkeypatch.setattr(sys, "argv", ["startup.py", f"--model={micro_folder}", "--repeats=1", f"--json={out}"])
    script.main()
    figures = json.loads(out.read_text())
    assert figures["help"].keys() == {"segment", "convert"} and min(figures["first_mask"].values()) > 0
    assert load_script(ROOT / "tools" / "speed_tables.py").TABLES["startup"](figures).count("\n") == 5


@needs_libtpu
@pytest.mark.timeout(900)
def test_tpu_table_keeps_what_is_compiled(micro_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "XLA_FLAGS", "")  # the TPU's compiler ends on flags that it does not know
    script = load_script(ROOT / "tools" / "tpu_table.py")
    micro = (f"--config.init.folder={micro_folder}", "--config.mesh.fsdp=4")
    micro = script.Cell("tests/costs/micro.py", "v5e:2x2", 8, micro)
    monkeypatch.setattr(script, "cells", lambda: [micro])
    monkeypatch.setattr(script, "option_cells", lambda: {"none": micro})
    monkeypatch.setattr(script, "_CELLS", tmp_path / "tpu")
    monkeypatch.setattr(script, "_PAGE", tmp_path / "tpu.md")
    page = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")
    script._PAGE.write_text(page, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["tpu_table.py", "--minutes=60", "--program=train"])
    script.main()
    cell = script._CELLS / "micro-v5e_2x2-8-train.json"
    cost = json.loads(cell.read_text())
    assert capsys.readouterr().out.startswith("micro-v5e_2x2-8-train: ") and cost["fits"] and cost["chips"] == 4
    written = script._PAGE.read_text(encoding="utf-8")
    (first, end_of_first), (second, end_of_second) = script._RECIPES, script._OPTIONS
    for untouched in (page.split(first)[0], page.split(end_of_first)[1].split(second)[0], page.split(end_of_second)[1]):
        assert len(untouched) > 100 and untouched in written
    (row,) = [line for line in written.splitlines() if line.startswith("| micro ")]
    assert f"| {cost['peak_bytes'] / 1e9:.1f} of 16 |" in row
    (row,) = written.split(second)[1].split(end_of_second)[0].strip().splitlines()[4:]
    assert row.startswith(f"| none | {cost['peak_bytes'] / 1e9:.1f} | ")
    kept = cell.stat().st_mtime_ns
    script.main()
    assert capsys.readouterr().out == "" and cell.stat().st_mtime_ns == kept
    assert script._PAGE.read_text(encoding="utf-8") == written


def test_tpu_table_on_the_page_is_that_of_the_cells():
    script = load_script(ROOT / "tools" / "tpu_table.py")
    written = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")
    assert script.page(written) == written
