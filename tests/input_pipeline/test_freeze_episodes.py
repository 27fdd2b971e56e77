import importlib
import importlib.util
from pathlib import Path

import pytest

from ldis_jax.evaluation.protocols import PROTOCOLS, Protocol
from ldis_jax.input_pipeline import VOCFolder, episodes_hash, read_manifest
from tests.helpers import DATA

PATH = DATA / "freeze_episodes.py"
SPEC = importlib.util.spec_from_file_location("freeze_episodes", PATH)
freeze_episodes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(freeze_episodes)


def freeze(voc_root, out, *flags):
    return freeze_episodes.main(["--root", str(voc_root), "--split", "train", "--out", str(out), *flags])


def test_freeze_episodes_writes_a_manifest(voc_root, tmp_path, capsys):
    out = tmp_path / "new" / "m.json"
    assert freeze(voc_root, out, "--num_shots", "2", "--episodes", "30", "--seed", "4") == 0
    records = read_manifest(out)
    assert len(records) == 30 and all(r.class_id == 1 and len(r.prompts) == 2 for r in records)
    assert episodes_hash(records) in capsys.readouterr().out
    folder = VOCFolder(voc_root, "train")
    assert {folder.episode(r).name for r in records} == {"a", "b", "d"}


def test_freeze_episodes_draws_by_the_seed(voc_root, tmp_path):
    hashes = []
    for seed in ("0", "0", "1"):
        assert freeze(voc_root, tmp_path / "m.json", "--episodes", "20", "--seed", seed) == 0
        hashes.append(episodes_hash(read_manifest(tmp_path / "m.json")))
    assert hashes[0] == hashes[1] != hashes[2]


def test_freeze_episodes_takes_all_settings_from_a_benchmark(voc_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PROTOCOLS, "toy", Protocol("toy", "voc", "train", classes=(2,), episodes=5, seed=3))
    assert freeze(voc_root, tmp_path / "m.json", "--benchmark", "toy") == 0
    assert {r.class_id for r in read_manifest(tmp_path / "m.json")} == {2}
    assert len(read_manifest(tmp_path / "m.json")) == 5
    assert freeze(voc_root, tmp_path / "n.json", "--benchmark", "ldis-vspw") == 2
    assert "about whole videos" in capsys.readouterr().err


def test_freeze_episodes_keeps_to_the_given_classes(voc_root, tmp_path):
    assert freeze(voc_root, tmp_path / "m.json", "--episodes", "20", "--classes", "2", "3") == 0
    assert {r.class_name for r in read_manifest(tmp_path / "m.json")} == {"dog"}


def test_freeze_episodes_writes_the_same_manifest_from_records(voc_root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PATH.parent))
    builder = importlib.import_module("folder.folder_dataset_builder").Builder
    (voc_root / "ImageSets/Segmentation/train.txt").write_text("a\nb\nc\nd\ne\n")
    builder(voc_root, "train", tmp_path / "out").build()
    for root, out in ((voc_root, "folder.json"), (tmp_path / "out/folder", "records.json")):
        assert freeze(root, tmp_path / out, "--episodes", "20") == 0
    assert (tmp_path / "folder.json").read_text() == (tmp_path / "records.json").read_text()


def test_freeze_episodes_reports_bad_data_in_one_line(voc_root, tmp_path, capsys):
    out = tmp_path / "m.json"
    assert freeze(voc_root, out, "--num_shots", "9") == 2
    error = capsys.readouterr().err
    assert "9-shot" in error and error.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize("flag", ["--num_shots=0", "--seed=-1", f"--seed={10**400}", f"--episodes={10**20}"])
def test_freeze_episodes_reports_numbers_out_of_range_in_one_line(voc_root, tmp_path, flag, capsys):
    assert freeze(voc_root, tmp_path / "m.json", flag) == 2
    error = capsys.readouterr().err
    assert f"{flag[:40]}" in error and "must be an integer of at least" in error and error.count("\n") == 1


@pytest.mark.parametrize("flags", [("--num_shots", ""), ("--episodes", "x")])
def test_freeze_episodes_reports_bad_usage_in_one_line(voc_root, tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as info:
        freeze(voc_root, tmp_path / "m.json", *flags)
    error = capsys.readouterr().err
    assert info.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_freeze_episodes_says_a_full_disk_is_worth_another_try(voc_root, capsys):
    assert freeze(voc_root, "/dev/full", "--episodes", "20") == 1
    assert capsys.readouterr().err.startswith("error: /dev/full: cannot be written (No space left")
