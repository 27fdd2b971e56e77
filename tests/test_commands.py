"""Commands as a user calls them: exit status, messages, files."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldis_jax import segment
from ldis_jax.image_io import read_image
from tests.helpers import call_command

ROOT = Path(__file__).parent.parent


def segment_command(*fixtures_and_arguments):
    """(exit status, stdout, stderr) of ``python -m ldis_jax.segment``."""
    return call_command(segment.main, *fixtures_and_arguments)


def test_segment_writes_mask_and_overlay(micro_folder, pictures, tmp_path, monkeypatch, capsys):
    status, out, err = segment_command(
        monkeypatch, capsys, f"--model={micro_folder}", f"--query={pictures['query']}",
        f"--prompt={pictures['prompt']}:{pictures['mask']}", f"--out={tmp_path / 'm.png'}",
        f"--overlay={tmp_path / 'o.png'}",
    )  # fmt: skip
    assert status == 0, err
    mask = np.asarray(Image.open(tmp_path / "m.png"))
    assert mask.shape == (24, 50) and set(np.unique(mask)) <= {0, 255}
    assert read_image(tmp_path / "o.png").shape == (24, 50, 3)
    assert "m.png" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "none.png"}, "none.png: no such file"),
        ({"prompt": "prompt.png"}, "write IMAGE:MASK"),
        ({"prompt": "prompt.png:none.png"}, "none.png: no such file"),
        ({"prompt": "prompt.png:query.png"}, "make them agree"),
        ({"model": "nowhere"}, "nowhere"),
        ({"out": "mask.jpg"}, "end the name in .png"),
        ({"query": "broken.png"}, "broken.png"),
        ({"num_steps": "4"}, "option of LDIS-n"),
    ],
)
def test_segments_bad_input_exits_with_2_and_one_line(
    micro_folder, pictures, tmp_path, monkeypatch, capsys, change, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(pictures["query"].read_bytes()[:200])
    arguments = {
        "model": micro_folder,
        "query": "query.png",
        "prompt": "prompt.png:mask.png",
        "out": "out.png",
    } | change
    before = set(tmp_path.iterdir())
    status, _, err = segment_command(monkeypatch, capsys, *(f"--{k}={v}" for k, v in arguments.items()))
    assert status == 2 and message in err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert set(tmp_path.iterdir()) == before


def command(*arguments, cwd=ROOT):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/tiny.py", "--config.no_such_key=1"], "no_such_key"),
        (["--config=configs/none.py"], "none.py"),
        (["--config=configs/tiny.py", "--config.batch_size=many"], "batch_size"),
        (["--workdir=x"], "--config"),
        (["--config=configs/tiny.py", "surplus"], "surplus"),
        (["--config=configs/tiny.py", "--no_such_flag"], "no_such_flag"),
    ],
)
def test_mains_bad_usage_exits_with_2_and_one_line(tmp_path, arguments, message):
    result = command("ldis_jax.main", *arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["main", "segment", "export"])
def test_help_shows_an_example_and_does_not_wait_for_jax(name):
    code = (
        f"import sys; sys.argv = ['{name}', '--help']\n"
        f"import runpy\ntry: runpy.run_module('ldis_jax.{name}', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'jax' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"python -m ldis_jax.{name}" in result.stdout


def test_every_config_loads():
    for path in sorted((ROOT / "configs").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        assert config.train_steps > 0 and len(config.data.sources) and len(config.eval.sets), path
        assert "Command:" in module.__doc__ and "Expected:" in module.__doc__, path
