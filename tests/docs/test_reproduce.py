"""The commands of docs/reproduce.md, all, in order and as they stand, on small stand-ins of weights and data."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from ldis_jax import convert, evaluate
from ldis_jax.weights import named_models
from ldis_jax.weights.assembly import Sources, assemble
from tests.commands.test_convert_weights import made  # noqa: F401
from tests.compile_flags import QUICK
from tests.data import trees
from tests.helpers import ROOT, call_command, load_script

PAGE = ROOT / "docs" / "reproduce.md"
# Addresses of the page, which stand for what a user gets from there; the tests of named models have servers for them.
FETCHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "https://download.openxlab.org.cn/models/SunzeY/AlphaCLIP/weight/clip_l14_grit20m_fultune_2xe.pth": "alpha.pth",
}
DOWNLOADS = {
    "VOCdevkit/VOC2012": trees.pascal,
    "coco": trees.coco20i,
    "DAVIS2016": trees.davis16,
    "VSPW_480p": trees.vspw,
}
# What makes a run short; no name of the page is touched.
SHORT = [
    *("--config.task.image_size=32", "--config.train_steps=2", "--config.batch_size=2", "--config.data.num_workers=0"),
    *("--config.eval.sets.pascal.episodes=2", "--config.eval.sets.coco20i.episodes=2", "--config.eval.batch_size=2"),
    *("--config.eval.pictures=2", "--config.watchdog_minutes=0"),
]
IN_PROCESS = {"ldis_jax.convert": convert, "ldis_jax.evaluate": evaluate}
ELSEWHERE = ("python3 -m venv", "launch/", "python -m ldis_jax.compile")  # tests of their own


def commands():
    """Of the page's blocks, as words."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
def folder(tmp_path, made, monkeypatch):  # noqa: F811
    """Where a user would be, with small weights and data of the names that the page uses."""
    monkeypatch.setenv("LDIS_JAX_CACHE", str(tmp_path / "cache"))
    for name in ("ldis1", "ldisn"):
        model = named_models.models_folder() / f"{name}-made"
        assemble(model, name, Sources(made / "sd15", made / "alpha.pth", ldis=made / f"{name}.pt"), ["published"])
        settings = model / "ldis_config.json"
        small = {"image_size": 32} | ({"num_steps": 2} if name == "ldisn" else {})
        settings.write_text(json.dumps(json.loads(settings.read_text()) | small))
        record = named_models.Record(model, named_models.TABLE[name].fingerprint, "made", {}, [])
        named_models.write_record(record)
    monkeypatch.setattr(trees, "SIZES", 4 * trees.SIZES[:1])  # frames of a video are of one size
    for name, paint in DOWNLOADS.items():
        (tmp_path / "downloads" / name).mkdir(parents=True)
        paint(tmp_path / "downloads" / name)
    for name in ("configs", "data", "tools"):
        (tmp_path / name).mkdir()
        for path in (ROOT / name).iterdir():
            (tmp_path / name / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _fetched(word, made):  # noqa: F811
    flag, _, value = word.partition("=")
    return f"{flag}={made / FETCHED[value]}" if value in FETCHED else word


@pytest.mark.timeout(900)
def test_reproduce_page_commands_work_in_order_as_they_stand(folder, made, monkeypatch, capsys):  # noqa: F811
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK}
    run, printed = [], ""
    for line in commands():
        if line.startswith(ELSEWHERE):
            continue
        python, *words = shlex.split(line)
        assert python == "python", line
        if words[0] == "-m" and words[1] in IN_PROCESS:
            arguments = [_fetched(word, made) for word in words[2:]]
            if "--num_shots" in arguments:  # the stand-in has two images of a class
                first = arguments.index("--num_shots") + 1
                assert arguments[first : first + 5] == ["1", "3", "5", "10", "20"]
                arguments[first : first + 5] = ["1"]
            status, _, err = call_command(IN_PROCESS[words[1]].main, monkeypatch, capsys, *arguments)
            assert status == 0, f"{line}\n{err}"
        else:
            short = SHORT if words[0] == "-m" else []
            done = subprocess.run(
                [sys.executable, *words, *short], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
            printed = done.stdout
        run.append(words[1] if words[0] == "-m" else words[0])
    assert list(dict.fromkeys(run)) == [
        *("data/build.py", "ldis_jax.evaluate", "tools/paper_table.py", "ldis_jax.convert", "ldis_jax.main")
    ]

    # The table has a row for every report, with its figure and the paper's.
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in printed.splitlines()[2:]]
    reports = sorted(Path("reports").glob("*/*.json"))
    assert len(rows) == len(reports) == 18
    for row, path in zip(rows, reports, strict=True):
        report = json.loads(path.read_text())
        values = report.get("k_shot_curve", [report])[0]
        assert row[0] == path.parent.name and row[1].startswith(path.stem)
        name = "j_and_f" if "j_and_f" in values else "miou"
        assert row[2] == {"miou": "mIoU", "j_and_f": "J&F"}[name] and row[3].startswith(f"{values[name]:.2f}")
    published = {(row[0], row[1]): row[4] for row in rows}
    assert published["ldis1", "ldis-coco"] == published["published-ldis1", "ldis-coco"] == "62.6"
    assert published["ldisn_post_mask-prompts", "ldis-coco, K = 1"] == "49.7"
    assert published["ldisn-prompts", "ldis-coco, K = 1"] == ""


def test_reproduce_page_hours_are_those_of_the_cells():
    script = load_script(ROOT / "tools" / "paper_table.py")
    written = PAGE.read_text(encoding="utf-8")
    assert script.hours_table() == written.split(script._START)[1].split(script._END)[0].strip()
