"""Commands as a user calls them: exit status, messages, files."""

import copy
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ldis_jax import segment
from ldis_jax.media.images import read_image
from ldis_jax.training.run import run_task
from ldis_jax.weights import load_model
from tests.data.test_folder_check import boxes, image_folder
from tests.forked import command
from tests.helpers import ROOT, call_command, free_port


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
        ({"query": "none.png"}, "none.png: no image there"),
        ({"prompt": "prompt.png"}, "write IMAGE:MASK"),
        ({"prompt": "prompt.png:none.png"}, "none.png: no such file"),
        ({"prompt": "prompt.png:query.png"}, "colours beside black"),
        ({"model": "nowhere"}, "nowhere"),
        ({"out": "mask.jpg"}, "end the name in .png"),
        ({"query": "broken.png"}, "broken.png"),
        ({"num_steps": "4"}, "unknown option num_steps of ldis1"),
    ],
)
def test_segment_exits_with_2_and_one_line_after_bad_input(
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


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 7, ""),
        ("raise TryAgainError('the disk is full')", 1, "error: the disk is full\n"),
        ("raise LDISError('no such key')", 2, "error: no such key\n"),
    ],
)
def test_main_exits_as_training_ended(tmp_path, body, status, error):
    """SIGTERM before the first step: at once, with the status that was asked for."""
    code = (
        "import os, signal, time, ldis_jax.training.loop, ldis_jax.main as m\n"
        "from ldis_jax.support import cli\nfrom ldis_jax.errors import LDISError, TryAgainError\n"
        f"def train(config, workdir): {body}\n"
        "ldis_jax.training.loop.train = train\ncli.run(m.main)"
    )
    arguments = ["--config=configs/tiny.py", f"--workdir={tmp_path}", "--stopped_status=7"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (status, error)


@pytest.mark.parametrize(
    ("stop", "status", "error"),
    [
        ("", 1, "error: --multihost: cannot join the other hosts (no answer in 3 s); see launch/README.md\n"),
        (  # a second after it has begun to wait, however long it took to come there
            "join = multihost.join\n"
            "def late():\n    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()\n    join()\n"
            "multihost.join = late\n",
            7,
            "",
        ),
    ],
    ids=["they are silent", "SIGTERM meanwhile"],
)
@pytest.mark.parametrize("index", [0, 1])
def test_main_stops_waiting_for_other_hosts(tmp_path, index, stop, status, error):
    code = (
        "import os, signal, threading, ldis_jax.main as m\n"
        "from ldis_jax.runtime import multihost\nfrom ldis_jax.support import cli\n"
        f"multihost._SILENCE = 3\n{stop}cli.run(m.main)"
    )
    arguments = ["--config=configs/tiny.py", f"--workdir={tmp_path}", "--stopped_status=7", "--multihost"]
    here = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": index}
    env = os.environ | {name: str(value) for name, value in here.items()}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == status and done.stderr.startswith(error), done.stderr  # JAX's service may add its own
    assert error or not done.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def get_config(:\n", "SyntaxError: invalid syntax"),
        ("import nothing_like_it\n", "ModuleNotFoundError: No module named"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_main_reports_a_config_file_that_raises_in_one_line(tmp_path, code, message):
    (tmp_path / "bad.py").write_text(code)
    result = command("ldis_jax.main", f"--config={tmp_path / 'bad.py'}", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr and len(result.stderr) < 400


def test_main_reports_an_unknown_key_in_a_config_file_in_one_short_line(tmp_path):
    file = tmp_path / "typo.py"
    file.write_text(
        "from ldis_jax.recipes.small import small_config\n\n\ndef get_config():\n    config = small_config('ldis1')\n"
        "    config.train_stepz = 5\n    return config\n"
    )
    result = command("ldis_jax.main", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and len(result.stderr) < 250
    assert 'Did you mean "train_steps"' in result.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/tiny.py", "--config.no_such_key=1"], "no_such_key"),
        (["--config=configs/none.py"], "none.py"),
        (["--config=configs/tiny.py", "--config.batch_size=many"], "batch_size"),
        (["--workdir=x"], "--config"),
        (["--config=configs/tiny.py", "surplus"], "surplus"),
        (["--config=configs/tiny.py", "--no_such_flag"], "no_such_flag"),
        (["--config=configs/finetune.py:all"], "finetune.py:all: must be one of full, lora, small"),
        (["--config=configs/ablations.py"], "configs/ablations.py:VARIANT: must be one of ldis1_pixel, "),
        (["--config=configs/ablations/ldisn_vanilla.py"], "; give --config=configs/ablations.py:ldisn_vanilla"),
        (["--config", "configs/evidence/joint.py", "--config.seed=1"], "; give --config=configs/evidence.py:joint"),
        (["--config=configs/finetune.py"], "--config.data.folder: missing"),
        (["--config=configs/finetune.py", "--config.data.folder=tests"], "needs images/ and masks/"),
    ],
)
def test_main_exits_with_2_and_one_line_after_bad_usage(tmp_path, arguments, message):
    result = command("ldis_jax.main", *arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["main", "segment", "export", "check_data"])
def test_commands_help_shows_an_example_and_does_not_wait_for_jax(name):
    code = (
        f"import sys; sys.argv = ['{name}', '--help']\n"
        f"import runpy\ntry: runpy.run_module('ldis_jax.{name}', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'jax' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"python -m ldis_jax.{name}" in result.stdout


@pytest.mark.parametrize("name", ["segment", "evaluate", "export", "convert", "demo"])
def test_commands_help_says_what_a_model_may_be(name):
    result = command(f"ldis_jax.{name}", "--help")
    assert result.returncode == 0 and "small, tiny, ldis1, ldisn, a model folder, or a hub id" in " ".join(
        result.stdout.split()
    )


def test_main_names_bad_images_before_it_reads_any_weight(tmp_path):
    root = image_folder(tmp_path / "mine", boxes(255))
    (root / "masks/p3.png").unlink()
    arguments = ["--config=configs/finetune.py", f"--config.data.folder={root}", "--config.init.folder=none"]
    result = command("ldis_jax.main", *arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"problem: {root / 'images/p3.png'}: no mask masks/p3.*\n" in result.stdout
    assert "1 file cannot be used" in result.stderr
    result = command("ldis_jax.main", *arguments, "--config.data.skip_bad=True", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2 and "config.init.folder=none: no LDIS model folder" in result.stderr
    assert not (tmp_path / "run").exists()


def test_finetune_takes_its_task_from_the_model_folder(micro_folder, micro_folder_ldisn):
    spec = importlib.util.spec_from_file_location("finetune", ROOT / "configs" / "finetune.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for method in ("full", "lora", "small"):
        config = module.get_config(method)
        for folder, task in ((micro_folder, "ldis1"), (micro_folder_ldisn, "ldisn")):
            config.init.folder = str(folder)
            assert run_task(config) == load_model(folder).task == run_task(copy.deepcopy(config))
            assert run_task(config).name == task
        config.data.folder, config.data.skip_bad = "mine", True
        entries = (config.data.sources.images, *(entry.source for entry in config.eval.sets.values()))
        assert [e.split for e in entries] == ["fit", "choose", "val", "val", "fit"]
        assert all((e.root, e.skip_bad) == ("mine", True) for e in entries)


def test_configs_all_load():
    for path in sorted((ROOT / "configs").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        first = next(iter(getattr(module, "VARIANTS", ())), None)  # tests of theirs load all of them
        config = module.get_config(first) if first else module.get_config()
        assert config.train_steps > 0 and len(config.data.sources) and len(config.eval.sets), path
        assert "Command:" in module.__doc__ and "Expected:" in module.__doc__, path
