"""Commands keep what they compiled, where the user lets them."""

import os
import subprocess
import sys

import pytest

from ldis_jax.runtime.compilation_cache import use_compilation_cache


def segment(folder, pictures, tmp_path, **environment):
    command = [sys.executable, "-m", "ldis_jax.segment", f"--model={folder}", f"--out={tmp_path / 'result.png'}"]
    command += [f"--query={pictures['query']}", f"--prompt={pictures['prompt']}:{pictures['mask']}"]
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    subprocess.run(command, env=env | environment, check=True, capture_output=True, timeout=300)
    return sorted(path.name for path in tmp_path.rglob("*-cache"))


def test_compilation_cache_gives_the_next_process_what_was_compiled(micro_folder, pictures, tmp_path):
    first = segment(micro_folder, pictures, tmp_path)
    assert any("predict" in name for name in first)
    assert (tmp_path / "cache" / "ldis_jax").is_dir()
    assert segment(micro_folder, pictures, tmp_path) == first, "compiled again"


def test_compilation_cache_obeys_jaxs_own_variable(micro_folder, pictures, tmp_path, monkeypatch):
    assert segment(micro_folder, pictures, tmp_path, JAX_COMPILATION_CACHE_DIR="") == []
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    use_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"


@pytest.mark.parametrize("base", ["home", "xdg"])
def test_compilation_cache_lies_in_the_users_cache(monkeypatch, tmp_path, base):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "x")  # so that both are put back as they were
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if base == "xdg":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    use_compilation_cache()
    expected = tmp_path / ("xdg" if base == "xdg" else "home/.cache") / "ldis_jax"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(f"{expected}{os.sep}compiled-")
