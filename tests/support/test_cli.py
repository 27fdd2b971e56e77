"""How commands begin and end where the system gives them little: streams, encodings, homes."""

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ldis_jax.runtime import home
from ldis_jax.runtime.compilation_cache import use_compilation_cache
from ldis_jax.support import cli
from tests.helpers import ROOT, call_command

TALK = """
import logging, sys
from pathlib import Path
from tqdm import tqdm
from ldis_jax.support import cli
def main():
    for i in tqdm(range(3)):
        logging.warning("warning %s", i)
        print("caf\\u00e9 \\udcff", "x" * 100_000, flush=True)
    with open("result", "w") as file:
        print("a line for whoever has this number", file=sys.stderr)
        file.write("done")
cli.run(main)
"""


def talk(folder, *, code=TALK, shell='"$@"', env=(), **options):
    command = ["sh", "-c", shell, "sh", sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | dict(env)
    options = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE} | options
    return subprocess.run(command, cwd=folder, env=env, timeout=60, check=False, **options)


def test_cli_run_escapes_a_name_that_a_stream_cannot_encode(tmp_path):
    done = talk(tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout.count(rb"caf\xe9 \udcff") == 3 and b"Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("both", [False, True])
def test_cli_run_goes_on_without_a_reader_that_has_gone(tmp_path, both, unbuffered):
    ours, its = os.pipe()
    os.close(ours)
    done = talk(tmp_path, stdout=its, env={"PYTHONUNBUFFERED": unbuffered}, **({"stderr": its} if both else {}))
    os.close(its)
    assert done.returncode == 0 and (tmp_path / "result").read_text() == "done"
    assert both or b"Error" not in done.stderr


def test_cli_run_goes_on_without_a_terminal_that_has_gone(tmp_path):
    ours, its = pty.openpty()
    os.close(ours)
    done = talk(tmp_path, stdout=its, stderr=its)
    os.close(its)
    assert done.returncode == 0 and (tmp_path / "result").read_text() == "done"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_cli_run_works_with_closed_streams(tmp_path, closed):
    done = talk(tmp_path, shell=f'"$@" {closed}')
    assert done.returncode == 0 and (tmp_path / "result").read_text() == "done"
    assert b"Traceback" not in done.stderr


def test_cli_run_reports_a_file_that_takes_no_more_of_standard_output(tmp_path):
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n{TALK}"
    with open(tmp_path / "out", "wb") as out:
        done = talk(tmp_path, code=limited, stdout=out)
    assert (tmp_path / "result").read_text() == "done"
    assert done.returncode == 2 and b"error: standard output: cannot be written (File too large)" in done.stderr
    assert b"Traceback" not in done.stderr


HOMELESS = """
import pwd, sys
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
from ldis_jax.support import cli
def main():
    import getpass, os
    from pathlib import Path
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "" and getpass.getuser()
    import matplotlib.pyplot
    import huggingface_hub.constants as hub
    assert Path(hub.HF_HOME).is_relative_to(Path.home()) and not Path("~").exists()
    print(Path.home())
cli.run(main)
"""


def test_cli_run_works_for_a_user_without_home_and_name(tmp_path):
    gone = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HF_HOME", "JAX_COMPILATION_CACHE_DIR")
    done = talk(tmp_path, code=HOMELESS, shell=f'unset {" ".join(gone)}; "$@"')
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(done.stdout.decode().strip()) and os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["file", "relative"])
def test_use_compilation_cache_keeps_none_where_none_can_be(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "x")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", {"file": str(tmp_path / "file"), "relative": "cache"}[place])
    use_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == ""


def test_ensure_home_keeps_a_home_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    home.ensure_home()
    assert os.environ["HOME"] == str(tmp_path)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), 1, "a.bin: cannot be written"),
        (RuntimeError("writer: Disk quota exceeded"), 1, "a file: cannot be written (writer: Disk quota exceeded)"),
        (OSError(errno.ENAMETOOLONG, "File name too long", 300 * "x"), 2, "x: cannot be used (File name too long)"),
        (UnicodeEncodeError("utf-8", "to caf\udce9.png now", 6, 7, "surrogates not allowed"), 2, r"caf\udce9.png: can"),
    ],
)
def test_cli_run_reports_in_one_line_what_no_reader_or_writer_has_met(monkeypatch, capsys, error, status, line):
    found, _, err = call_command(raising(error), monkeypatch, capsys)
    assert found == status and line in err.replace("\udce9", r"\udce9") and err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [OSError("no file"), UnicodeEncodeError("ascii", "é", 0, 1, "of the program"), KeyError("a")]
)
def test_cli_run_leaves_our_mistakes_as_tracebacks(monkeypatch, capsys, error):
    with pytest.raises(type(error)):
        call_command(raising(error), monkeypatch, capsys)


def parsed(*seen):
    def main():
        parser = cli.Parser("segment", "about")
        parser.add_argument("--json", type=Path)
        parser.add_argument("--out", type=Path)
        print("printed", parser.parse_args())
        print("printed")

    return main


def test_cli_parser_rejects_an_empty_name(monkeypatch, capsys):
    status, out, err = call_command(parsed(), monkeypatch, capsys, "--out=")
    assert (status, out) == (2, "") and err == "error: argument --out: names no file or folder; see --help\n"


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "link"])
def test_cli_parser_keeps_standard_output_for_an_output_that_goes_there(monkeypatch, capsys, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    os.symlink("/dev/stdout", "link")
    status, out, err = call_command(parsed(), monkeypatch, capsys, f"--json={name}", "--out=file")
    assert (status, out) == (0, "") and err.count("printed") == 2
    print("afterwards")
    assert capsys.readouterr().out == "afterwards\n"
