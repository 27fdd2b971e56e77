"""Scripts that documents name and that take networks of full size, on the smallest ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.costs.test_compile import needs_libtpu
from tests.helpers import load_script

ROOT = Path(__file__).parents[2]


def test_costs_of_the_variants(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["variants.py", "--micro", "--batch=1"])
    load_script(ROOT / "benchmarks" / "variants.py").main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [
        *("the UNet", "LoRA 4, low-rank layers", "LoRA 4, merged in the step"),
        *("the pixel-space loss, remat 'none'", "the pixel-space loss, remat 'blocks'"),
    ]


def test_seconds_and_memory_of_conversion(tmp_path):
    pytest.importorskip("transformers")
    out = tmp_path / "convert.json"
    command = [sys.executable, "benchmarks/convert.py", "--micro", f"--json={out}", f"--work={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    figures = json.loads(out.read_text())
    assert len(figures["rows"]) == 7 and all(row["peak_bytes"] > 0 for row in figures["rows"].values())
    ours, torch = (figures["rows"][f"{who} float32"]["seconds"] for who in ("ours", "torch"))
    assert figures["ratios"]["load seconds, ours / torch, float32"] == ours / torch
    assert list(tmp_path.iterdir()) == [out], "the weights are gone"


@needs_libtpu
@pytest.mark.timeout(900)
def test_the_table_of_slices_keeps_what_is_compiled(micro_folder, tmp_path, monkeypatch, capsys):
    script = load_script(ROOT / "tools" / "tpu_table.py")
    micro = (f"--config.init.folder={micro_folder}", "--config.mesh.fsdp=4")
    monkeypatch.setattr(script, "cells", lambda: [script.Cell("tests/costs/micro.py", "v5e:2x2", 8, micro)])
    monkeypatch.setattr(script, "_CELLS", tmp_path / "tpu")
    monkeypatch.setattr(script, "_PAGE", tmp_path / "tpu.md")
    page = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")
    script._PAGE.write_text(page, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["tpu_table.py", "--minutes=60", "--program=train"])
    script.main()
    cell = script._CELLS / "micro-v5e_2x2-8-train.json"
    cost = json.loads(cell.read_text())
    assert capsys.readouterr().out.startswith("micro-v5e_2x2-8-train: ") and cost["fits"] and cost["chips"] == 4
    before, after = page.split(script._START)[0], page.split(script._END)[1]
    written = script._PAGE.read_text(encoding="utf-8")
    assert written.startswith(before) and written.endswith(after)
    (row,) = [line for line in written.splitlines() if line.startswith("| micro ")]
    assert f"| {cost['peak_bytes'] / 1e9:.1f} of 16 |" in row
    kept = cell.stat().st_mtime_ns
    script.main()
    assert capsys.readouterr().out == "" and cell.stat().st_mtime_ns == kept
    assert script._PAGE.read_text(encoding="utf-8") == written


def test_the_table_on_the_page_is_that_of_the_cells():
    script = load_script(ROOT / "tools" / "tpu_table.py")
    written = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")
    assert script.table() == written.split(script._START)[1].split(script._END)[0].strip()
