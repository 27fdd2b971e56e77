"""The command that looks at a folder before anybody trains on it."""

import json
import os

import pytest

from ldis_jax import check_data
from tests.data import trees
from tests.data.test_folder_check import box, boxes, image_folder
from tests.helpers import call_command


def test_check_data_describes_a_good_folder(tmp_path, monkeypatch, capsys):
    root = image_folder(tmp_path / "mine", boxes(255))
    file = tmp_path / "facts.json"
    status, out, err = call_command(check_data.main, monkeypatch, capsys, f"--data={root}", f"--json={file}")
    facts = json.loads(file.read_text())
    (held_out,) = facts["held_out"]
    assert status == 0 and err == ""
    assert f"{root}: images and masks, 5 images, 32 to 32 wide, 24 to 24 high\n" in out
    assert "masks: any value but 0 is the object\n" in out and "object                          5        1\n" in out
    assert f"held out to evaluate, by a hash of their names: 1: {held_out}\n" in out
    assert out.endswith("ready to train on\n")
    assert (facts["images"], facts["widths"], facts["problems"], facts["fatal"]) == (5, [32, 32, 32], [], None)


def test_check_data_gives_every_bad_file_its_line(tmp_path, monkeypatch, capsys):
    root = image_folder(tmp_path / "mine", boxes(255, 30))
    for i in range(25):
        trees.save(root / f"masks/p{i}.png", box(255, (9, 9)))
    status, out, err = call_command(check_data.main, monkeypatch, capsys, f"--data={root}", "--limit=3")
    assert status == 2 and "Traceback" not in err and err.count("\n") == 1
    lines = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert len(lines) == 3 and all(f"{root}/masks/p" in line and "make them agree" in line for line in lines)
    assert "and 22 more problems\n" in out and "25 files cannot be used" in err
    status, out, _ = call_command(check_data.main, monkeypatch, capsys, f"--data={root}", "--skip_bad")
    assert status == 0 and "5 images" in out


def test_check_data_rejects_bad_usage_in_one_line(tmp_path, monkeypatch, capsys):
    for arguments, message in (
        ([f"--data={tmp_path / 'none'}"], "none: needs images/ and masks/"),
        (["--data=--"], "--data: expected one"),
    ):
        status, _, err = call_command(check_data.main, monkeypatch, capsys, *arguments)
        assert status == 2 and message in err and err.count("\n") == 1


def test_check_data_writes_the_facts_alone_to_standard_output(tmp_path, monkeypatch, capfd):
    root = image_folder(tmp_path / "mine", boxes(255))
    status, out, err = call_command(check_data.main, monkeypatch, capfd, f"--data={root}", "--json=/dev/stdout")
    assert status == 0 and json.loads(out)["images"] == 5 and err.endswith("ready to train on\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_check_data_on_a_full_disk_is_worth_another_try(tmp_path, monkeypatch, capsys):
    root = image_folder(tmp_path / "mine", boxes(255))
    status, _, err = call_command(check_data.main, monkeypatch, capsys, f"--data={root}", "--json=/dev/full")
    assert status == 1 and err.startswith("error: /dev/full: cannot be written (No space") and err.count("\n") == 1
