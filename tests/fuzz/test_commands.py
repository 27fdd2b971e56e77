"""Command lines of any flags and values: status 0, or 2 and one line, and nothing but what was asked for."""

import contextlib
import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from ldis_jax import LDISPipeline, check_data, convert, evaluate, export, segment
from ldis_jax.errors import LDISError
from ldis_jax.evaluation import hosts
from ldis_jax.support import cli
from tests.forked import command
from tests.fuzz.tally import cases

REACHED = "all flags are well"

# Of each command: flags, which may come without a value, and values that are likely for them.
WORDS = st.one_of(
    st.sampled_from(("", "-1", "0", "1", "16", "1e9", "nan", "None", "true", "x=y", ":", "=", "-", "--", "a\nb", "é")),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
)
FILES = (
    "query.png",
    "mask.png",
    "text.png",
    "folder",
    "empty",
    "missing",
    "missing/a.png",
    ".",
    "/",
    "*.png",
    "a.json",
)
COMMANDS = {
    "segment": (
        segment,
        *("model", "query", "prompt", "first_mask", "out", "overlay", "probability", "tile_size", "batch_size"),
        *("devices", "dtype", "seed", "ignore_label", "json", "quiet", "num_steps", "sampler", "prompt_guidance_scale"),
    ),
    "evaluate": (
        evaluate,
        *("model", "benchmark", "data", "out", "manifest", "num_shots", "batch_size", "dtype", "revision", "num_steps"),
        *("queries", "prompts", "classes", "min_object_percent", "episodes_per_class", "skip_bad"),
    ),
    "convert": (
        convert,
        *("sd15", "checkpoint", "model", "out", "to", "dtype", "task", "alpha_clip", "clip", "zero_alpha", "ldis"),
        *("vae", "variant", "sd15_config", "seed", "lora", "revision", "step", "init"),
    ),
    "check_data": (check_data, *("data", "skip_bad", "limit", "json")),
    "export": (export, *("model", "out", "dtype", "batch_size")),
}
# What makes a command go as far as the files.
NEEDED = {
    "segment": ["--model=MODEL", "--query=query.png", "--prompt=query.png:mask.png", "--out=new.png"],
    "evaluate": ["--model=MODEL", "--benchmark=mini-coco-1shot", "--data=folder", "--out=new.json"],
    "convert": ["--model=MODEL", "--out=new"],
    "check_data": ["--data=folder"],
    "export": ["--model=MODEL", "--out=new"],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an image, a mask, what is none, and commands that stop where the work would begin."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "query.png")
    Image.fromarray(np.eye(20, 30).astype(np.uint8)).save(tmp_path / "mask.png")
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "empty", tmp_path / "folder")
    (tmp_path / "folder" / "query.png").write_bytes((tmp_path / "query.png").read_bytes())
    monkeypatch.chdir(tmp_path)

    def reached(*arguments, **options):
        raise LDISError(REACHED)

    monkeypatch.setattr(LDISPipeline, "from_pretrained", reached)
    monkeypatch.setattr(hosts, "on_every", reached)
    monkeypatch.setattr("ldis_jax.commands.convert_weights.write_folder", reached)
    monkeypatch.setattr("ldis_jax.commands.convert_weights.write_ldis_checkpoint", reached)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
@given(data=st.data())
@cases(60)
def test_commands_take_any_line_or_refuse_it_in_one(name, tally, place, data, micro_folder):
    module, *flags = COMMANDS[name]
    values = st.one_of(
        WORDS, st.sampled_from((*FILES, str(micro_folder), "query.png:mask.png", "cat=query.png:mask.png"))
    )
    given_flags = data.draw(st.lists(st.tuples(st.sampled_from(flags), values, st.sampled_from("= 0")), max_size=4))
    line = [word.replace("MODEL", str(micro_folder)) for word in NEEDED[name] if data.draw(st.integers(0, 5))]
    for flag, value, join in given_flags:
        line += {"=": [f"--{flag}={value}"], " ": [f"--{flag}", value], "0": [f"--{flag}"]}[join]
    with tally.case():
        status, error = called(module.main, line)
        assert status in (0, 1, 2), line
        if status:
            assert error.startswith("error: ") and error.count("\n") == 1, error
            raise LDISError(error)
        for path in place.rglob("*.json"):  # the report that --json asked for
            if path.name != "a.json":
                path.unlink()


def called(main, line):
    """(status, standard error) of a command in this process."""
    arguments, sys.argv = sys.argv, ["command", *line]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.run(main)
    except SystemExit as stop:
        return stop.code or 0, err.getvalue()
    finally:
        sys.argv = arguments
    return 0, err.getvalue()


@given(data=st.data())
@cases(4, times=1)
def test_main_refuses_any_bad_command_line_in_one_line(tally, place, data, monkeypatch):
    """The flags are absl's, which reads them once a process: each case has its own."""
    keys = st.sampled_from(
        ("train_steps", "batch_size", "dtype", "seed", "task.image_size", "data.augment", "x.y", "eval")
    )
    overrides = data.draw(st.lists(st.tuples(keys, WORDS), min_size=1, max_size=3))
    config = data.draw(st.sampled_from(("configs/tiny.py", "configs/missing.py", "configs/ablations.py:x", "")))
    line = [f"--config={config}", "--workdir=/dev/null/x", *(f"--config.{key}={value}" for key, value in overrides)]
    with tally.case():
        done = command("ldis_jax.main", *line)
        assert done.returncode == 2 and "Traceback" not in done.stderr, (line, done.stderr)
        raise LDISError([text for text in done.stderr.splitlines() if text.startswith("error: ")][-1])
