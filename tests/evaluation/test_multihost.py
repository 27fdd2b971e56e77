"""``python -m ldis_jax.evaluate --multihost``: two processes, joined as under SLURM, against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ldis_jax import evaluate
from tests.compile_flags import QUICK
from tests.evaluation.painted import ROOT, Painted, build, write_vspw
from tests.helpers import call_command, free_port


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """All processes of this file run the same program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
        yield


def two_processes(*commands):
    """[(exit status, standard output, standard error)] of ``python -m ldis_jax.evaluate --multihost ARGUMENTS``."""
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    shared = {**os.environ, **slurm, "JAX_COORDINATOR_PORT": str(free_port()), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "ldis_jax.evaluate", "--multihost", *map(str, arguments)],
            env={**shared, "SLURM_PROCID": str(i), "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {QUICK}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, arguments in enumerate(commands)
    ]
    try:
        with ThreadPoolExecutor() as pool:  # both are read at once: one that waits to write keeps the other waiting
            outputs = list(pool.map(lambda process: process.communicate(timeout=300), processes))
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def arguments(model, benchmark, data, out, batch_size, **more):
    given = {"model": model, "benchmark": benchmark, "data": data, "out": out, "batch_size": batch_size} | more
    return [f"--{name}={value}" for name, value in given.items()]


def check_two_are_one(name, data, tmp_path, model, monkeypatch, capsys, cut, **more):
    """The report of two processes that go on after ``cut`` records is that of one to the last byte."""
    one = tmp_path / "one" / "r.json"
    # One query a device in both.
    assert call_command(evaluate.main, monkeypatch, capsys, *arguments(model, name, data, one, 8, **more))[0] == 0
    records = one.with_suffix(".records.jsonl").read_bytes()
    lead, other = tmp_path / "lead" / "r.json", tmp_path / "other" / "r.json"
    lead.parent.mkdir()
    lead.with_suffix(".records.jsonl").write_bytes(b"".join(records.splitlines(keepends=True)[: 1 + cut]))
    results = two_processes(*(arguments(model, name, data, out, 4, **more) for out in (lead, other)))
    assert [status for status, *_ in results] == [0, 0], results
    assert lead.read_bytes() == one.read_bytes()
    assert lead.with_suffix(".records.jsonl").read_bytes() == records
    assert sorted(p.name for p in (lead.parent / "r").iterdir()) == sorted(p.name for p in (one.parent / "r").iterdir())
    assert lead.with_suffix(".md").read_bytes() == one.with_suffix(".md").read_bytes()
    assert not other.parent.exists()
    assert "miou" in results[0][1] and "miou" not in results[1][1]


def test_evaluate_multihost_gives_the_report_of_one_process_on_images(voc, micro_folder, tmp_path, monkeypatch, capsys):
    manifest = tmp_path / "m.json"
    episodes = [
        {"class_id": 1 + i % 2, "class_name": "x", "query": f"picture{i}", "prompts": [f"picture{(i + 2) % 10}"]}
        for i in range(9)
    ]
    manifest.write_text(json.dumps(episodes))
    check_two_are_one(
        "mini-coco-1shot", voc, tmp_path, micro_folder, monkeypatch, capsys, cut=2, manifest=manifest
    )  # 7 are left, which neither 2 processes nor batches of 2 divide


def test_evaluate_multihost_gives_the_report_of_one_process_on_videos(micro_folder, tmp_path, monkeypatch, capsys):
    source = Painted({"a": (1,), "b": (), "c": (1, 3), "d": (2,)}, frames=5)
    data = build("vspw", write_vspw(source, tmp_path / "source"), tmp_path)
    check_two_are_one("mini-vspw", data, tmp_path, micro_folder, monkeypatch, capsys, cut=0)


def test_evaluate_multihost_without_other_hosts_fails_in_one_line(voc, micro_folder, tmp_path, monkeypatch, capsys):
    given = arguments(micro_folder, "ldis-coco", voc, tmp_path / "r.json", 4)
    status, _, errors = call_command(evaluate.main, monkeypatch, capsys, "--multihost", *given)
    assert status == 2 and "error: --multihost: cannot join the other hosts (" in errors and errors.count("\n") == 1


def test_evaluate_multihost_ends_on_all_hosts_at_bad_input_of_one(voc, micro_folder, tmp_path):
    commands = [
        arguments(micro_folder, "ldis-coco", data, tmp_path / "r.json", 4) for data in (voc, tmp_path / "nowhere")
    ]
    for status, _, errors in two_processes(*commands):
        assert status == 2 and "nowhere/ImageSets/Segmentation/val.txt: cannot be read" in errors, errors
        assert "Traceback" not in errors
    assert not (tmp_path / "r.json").exists()
