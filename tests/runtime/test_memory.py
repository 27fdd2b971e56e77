"""Too little memory on a device: one line that says what to change."""

import subprocess
import sys

import jax.numpy as jnp
import pytest

from ldis_jax import LDISError
from ldis_jax.config import base_config
from ldis_jax.runtime.memory import memory_options, out_of_memory
from tests.helpers import ROOT, call_command


def exhaust():
    """More than any machine has."""
    jnp.zeros((2**44,)).block_until_ready()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (45.28G) exceeds available HBM (15.75G). HLO module: jit_run.\nSee https://openxla.org",
            "Ran out of memory on HBM, the total memory required for HLO temporaries (45.28G) exceeds available HBM "
            "(15.75G). HLO module: jit_run",
        ),
        (
            "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 1.00G. That was not possible.",
            "Error allocating device buffer: Attempting to allocate 1.00G. That was not possible",
        ),
        ("RESOURCE_EXHAUSTED: received message larger than max", None),
        ("INTERNAL: out of memory", None),
    ],
)
def test_out_of_memory_gives_xlas_words(text, words):
    assert out_of_memory(RuntimeError(text)) == words


def test_memory_options_are_those_not_in_use():
    config = base_config("ldis1")
    moments, remat = "--config.optim.moment_dtype=bfloat16", "--config.remat=blocks"
    rest = f"{moments}, {remat}, --config.step.accumulate=2, a smaller batch or more devices"
    assert memory_options(config, 4) == f"--config.mesh.fsdp=4, {rest}"
    config.mesh.fsdp, config.step.accumulate = 4, 2
    assert memory_options(config, 4).startswith(f"--config.step.grad_dtype=bfloat16, {moments}")
    config.step.accumulate, config.dtype = 1, "float32"
    assert memory_options(config, 4).startswith(f"--config.step.grad_dtype=bfloat16, {moments}")
    config.step.accumulate = 2
    config.step.grad_dtype, config.remat, config.optim.moment_dtype = "bfloat16", "blocks", "bfloat16"
    assert memory_options(config, 4) == "--config.step.accumulate=4, a smaller batch or more devices"


def test_out_of_memory_ends_a_command_in_one_line(monkeypatch, capsys):
    status, out, error = call_command(exhaust, monkeypatch, capsys)
    assert status == 2 and not out and error.count("\n") == 1
    assert error.startswith("error: out of memory on a device (Out of memory allocating 70368744177664 bytes); docs/")

    def other():
        raise RuntimeError("INTERNAL: a mistake of ours")

    with pytest.raises(RuntimeError, match="mistake of ours"):
        call_command(other, monkeypatch, capsys)


def test_main_says_which_keys_are_left_when_out_of_memory(tmp_path):
    code = (
        "import ldis_jax.training.loop, tests.runtime.test_memory, ldis_jax.main as m\n"
        "from ldis_jax.support import cli\n"
        "ldis_jax.training.loop.train = lambda config, workdir: tests.runtime.test_memory.exhaust()\n"
        "cli.run(m.main)"
    )
    arguments = ["--config=configs/tiny.py", f"--workdir={tmp_path}", "--config.cpu_devices=2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "training needs more memory than a device has (Out of memory allocating" in done.stderr
    assert "; try --config.mesh.fsdp=2, --config.optim.moment_dtype=bfloat16, " in done.stderr


def test_explained_lets_other_errors_pass():
    from ldis_jax.runtime.memory import explained

    for error in (LDISError("a line"), ValueError("RESOURCE is another word")):
        with pytest.raises(type(error), match=str(error)), explained(base_config("ldis1")):
            raise error
