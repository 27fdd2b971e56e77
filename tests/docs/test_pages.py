"""What documents point at exists, and what they tell users to type works."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ldis_jax import check_data, convert, segment
from tests.compile_flags import QUICK
from tests.data import trees
from tests.data.test_folder_check import boxes, image_folder
from tests.helpers import ROOT, call_command

UNET = "diffusion_pytorch_model.safetensors"
DOCUMENTS = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")] if not p.parts[-2].startswith("."))


def defined_in(path):
    """{"test_x", "TestY::test_z"} of a test file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_documents_name_links_and_tests_that_exist(path):
    text = path.read_text(encoding="utf-8")
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", text):
        assert name in defined_in(ROOT / file), f"{file}::{name}"
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target


def test_weights_page_has_a_test_for_every_claim():
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    tables = re.findall(
        r"^\| (.*?) \| [^|]* \|$", page[page.index("## Sources") : page.index("## Figures")], re.MULTILINE
    )
    claims = {claim for claim in tables if not claim.startswith("what you ")} | set(
        re.findall(r"^\* (.*)$", page, re.MULTILINE)
    )
    proved = re.findall(r"^\| (.*) \| `tests/", (ROOT / "docs" / "proofs.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(claims) > 40 and claims <= set(proved)


def test_speed_page_has_the_tables_of_the_figures():
    spec = importlib.util.spec_from_file_location("speed_tables", ROOT / "tools" / "speed_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    figures = list((ROOT / "docs" / "speed").glob("*.json"))
    assert figures
    assert all(tables.TABLES[path.stem](json.loads(path.read_text())) in page for path in figures)


def commands(path):
    """The commands of a page's blocks, in order: the module after ``python -m`` and its arguments."""
    blocks = re.findall(r"^```\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith("python -m ")]


IN_PROCESS = {"ldis_jax.check_data": check_data, "ldis_jax.segment": segment, "ldis_jax.convert": convert}
SHORT = ["--config.train_steps=2", "--config.batch_size=2", "--config.eval.batch_size=2", "--config.eval.pictures=2"]


def test_finetune_page_commands_work_in_order_as_they_stand(tmp_path, micro_folder, monkeypatch, capsys):
    """All of them, in order and as they stand, where a user would be; training is short, of the smallest network."""
    masks = {f"cat{i}": mask for i, mask in enumerate(boxes(255).values())}
    image_folder(tmp_path / "my_images", masks, ending="jpg")
    trees.save(tmp_path / "new.jpg", np.zeros((20, 50, 3), np.uint8))
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained/ldis1").symlink_to(micro_folder)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    outputs = {}
    for module, *arguments in commands(ROOT / "docs" / "finetune.md"):
        if module in IN_PROCESS:
            status, out, err = call_command(IN_PROCESS[module].main, monkeypatch, capsys, *arguments)
        else:  # flags and devices are set once a process
            env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK}
            command = [sys.executable, "-m", module, *arguments, *SHORT]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            status, out, err = done.returncode, done.stdout, done.stderr
        assert status == 0, err
        outputs[module] = out
    assert list(outputs) == ["ldis_jax.check_data", "ldis_jax.main", "ldis_jax.segment", "ldis_jax.convert"]
    assert "ready to train on" in outputs["ldis_jax.check_data"]
    assert "held out to evaluate, by a hash of their names: 1: cat" in outputs["ldis_jax.main"]
    assert outputs["ldis_jax.main"].count("before training") == 1
    with Image.open("mask.png") as mask, Image.open("overlay.png") as overlay:
        assert mask.size == overlay.size == (50, 20)

    report, page = (Path("runs/mine", name).read_text() for name in ("report.json", "report.md"))
    report = json.loads(report)
    assert report["evaluation_set"] == "held_out" and report["episodes"] == 1
    assert report["before"]["other_sets"] == {}
    for name in ("miou", "fb_iou"):
        assert 0 <= report["before"][name] <= 100
        assert all(
            f"{values[name]:.2f}" in page for values in (report, report["before"], *report["baselines"].values())
        )
    links = re.findall(r"\]\((.*?)\)", page)
    assert links == ["curves.png", "pictures/000002.png", "pictures/000000.png"]
    assert all(Path("runs/mine", link).is_file() for link in links)

    assert json.loads(Path("runs/lora/report.json").read_text())["episodes"] == 1
    merged, exported = (load_file(f"{folder}/unet/{UNET}") for folder in ("merged", "runs/lora/model"))
    assert merged.keys() == exported.keys()
    assert all(np.array_equal(merged[name], exported[name]) for name in merged)
