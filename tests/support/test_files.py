"""What no file may replace is written through, what could keep a reader waiting is not opened, full disks are told."""

import contextlib
import errno
import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import tty

import numpy as np
import pytest

from ldis_jax.datasets.scan import Item, scan
from ldis_jax.errors import LDISError, TryAgainError
from ldis_jax.evaluation.benchmark_data import open_episodes
from ldis_jax.evaluation.protocols import Protocol
from ldis_jax.evaluation.records import Records
from ldis_jax.media.images import checked_size, read_image, write_png
from ldis_jax.media.masks import read_first_labels, read_label_map, read_mask
from ldis_jax.media.videos import read_video
from ldis_jax.support import files
from ldis_jax.support.files import (
    atomic_write,
    check_writable,
    checked_file,
    is_stream,
    reading,
    resolved,
    write_json,
    writing,
)
from ldis_jax.support.json_files import read_json
from ldis_jax.weights.model_folder import read_card
from ldis_jax.weights.network_files import open_file
from tests.helpers import ROOT

LONG, BYTES = 300 * "x", os.fsdecode(b"caf\xe9.json")


@pytest.fixture(autouse=True)
def ends():
    """A reader that waits for ever fails its test."""

    def late(*_):
        raise TimeoutError("still waits")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.fixture
def pipe(tmp_path):
    """(path of a pipe, what reads it)"""
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDWR | os.O_NONBLOCK), "rb") as file:
        yield path, file


@pytest.fixture
def terminal():
    """(path of a device, the number of what reads it)"""
    ours, its = pty.openpty()
    tty.setraw(its)
    yield os.ttyname(its), ours
    os.close(ours)
    os.close(its)


@contextlib.contextmanager
def refused(match, status=2):
    with pytest.raises(LDISError, match=match) as found:
        yield
    assert found.value.status == status and "\n" not in str(found.value)


def test_write_json_gives_a_pipe_the_content_and_keeps_it(pipe):
    path, file = pipe
    check_writable(path)
    write_json(path, {"a": 1})
    assert json.loads(file.read()) == {"a": 1} and stat.S_ISFIFO(os.stat(path).st_mode) and is_stream(path)
    write_png(path, np.zeros((2, 3), np.uint8))
    assert file.read().startswith(b"\x89PNG")
    assert os.listdir(path.parent) == ["pipe.png"]


def test_atomic_write_gives_a_pipe_all_or_nothing(pipe):
    path, file = pipe
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert file.read() is None


def test_write_json_ignores_a_reader_that_has_gone():
    ours, its = os.pipe()
    os.close(ours)
    write_json(f"/dev/fd/{its}", list(range(100_000)))
    os.close(its)


def test_write_json_gives_a_device_the_content_and_keeps_it(terminal):
    path, reader = terminal
    check_writable(path)
    write_json(path, {"a": 1})
    assert json.loads(os.read(reader, 1000)) == {"a": 1} and stat.S_ISCHR(os.stat(path).st_mode)


@pytest.mark.parametrize("target", ["there.json", "new/not_yet.json"])
def test_write_json_keeps_a_link_and_replaces_its_target(tmp_path, target):
    (tmp_path / "there.json").write_text("old")
    (tmp_path / "links").mkdir()
    first, second = tmp_path / "links/first.json", tmp_path / "links/second.json"
    first.symlink_to(f"../{target}")
    second.symlink_to("first.json")
    check_writable(second)
    write_json(second, [1])
    assert first.is_symlink() and second.is_symlink()
    assert (tmp_path / target).read_text() == second.read_text() == "[\n 1\n]\n"
    assert sorted(os.listdir(tmp_path / "links")) == ["first.json", "second.json"]


def test_write_json_follows_a_link_to_a_device(tmp_path, terminal):
    path, reader = terminal
    (tmp_path / "link.json").symlink_to(path)
    write_json(tmp_path / "link.json", [1])
    assert json.loads(os.read(reader, 1000)) == [1] and (tmp_path / "link.json").is_symlink()


STDOUT = """
import sys
from ldis_jax.support import cli, files
def main():
    files.check_writable(sys.argv[1])
    print("before")
    files.write_json(sys.argv[1], [1])
cli.run(main)
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_write_json_writes_to_standard_output_where_it_stands(tmp_path, name):
    """A file behind it keeps what it held, and what was printed comes first."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    command = [sys.executable, "-c", STDOUT, name]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.check_output(command, cwd=tmp_path, env=env) == b"before\n[\n 1\n]\n"
    with open(tmp_path / "out", "ab") as out:
        out.write(b"kept\n")
        out.flush()
        subprocess.run(command, cwd=tmp_path, env=env, stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"kept\nbefore\n[\n 1\n]\n"
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command], cwd=tmp_path, env=env, capture_output=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("loop.json", "Too many levels of symbolic links"),
        (f"{LONG}.json", "File name too long"),
        (f"{LONG}/a.json", "File name too long"),
        ("a\0b", "embedded null byte"),
        ("socket", "No such device or address"),
        ("/", "[Ii]s a (folder|directory)"),
        ("", "[Ii]s a (folder|directory)"),
        ("..", "[Ii]s a (folder|directory)"),
        ("file/a.json", "File exists|Not a directory|no right to write in"),
    ],
)
def test_write_json_rejects_names_that_cannot_be_written(tmp_path, monkeypatch, name, why):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop.json", "loop.json")
    (tmp_path / "file").touch()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    before = sorted(os.listdir())
    with refused(rf"cannot be written \(.*({why})"):
        write_json(name, {})
    if name != "socket":
        with refused(rf"cannot be written \(.*({why})"):
            check_writable(name)
    listener.close()
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("name", [BYTES, f"{250 * 'x'}.json", f"{120 * 'ä'}.json"])
def test_write_json_accepts_odd_names(tmp_path, name):
    check_writable(tmp_path / name)
    write_json(tmp_path / name, {"name": name})
    assert read_json(tmp_path / name) == {"name": name} and os.listdir(tmp_path) == [name]


def json_with_look(path):
    with reading(path):
        return path.read_text()


READERS = {
    "image": read_image,
    "mask": read_mask,
    "labels": read_label_map,
    "first labels": read_first_labels,
    "size": checked_size,
    "video": read_video,
    "json": read_json,
    "text": json_with_look,
    "weights": open_file,
    "records": lambda path: Records(path, {}),
    "file": checked_file,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_checked_file_refuses_what_could_keep_a_reader_waiting(tmp_path, pipe, terminal, read, kind):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        path = {"pipe": pipe[0], "socket": tmp_path / "socket", "terminal": type(tmp_path)(terminal[0])}[kind]
        with refused("is a pipe, a device or a socket; save what it gives"):
            read(path)


def test_scan_and_read_card_do_not_open_a_pipe(tmp_path, pipe):
    found = scan(Item("a", str(pipe[0]), str(pipe[0])), "labels")
    assert "pipe.png: is a pipe, a device or a socket" in found.error
    os.mkfifo(tmp_path / "README.md")
    assert read_card(tmp_path) is None


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("name", ["loop", LONG, "a\0b"])
def test_checked_file_rejects_names_that_cannot_be_read(tmp_path, read, name):
    (tmp_path / "loop").symlink_to("loop")
    with refused(r"cannot be (read|written) \((Too many levels|File name too long|embedded null)"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [read_image, read_video, read_json, open_file])
def test_reading_reports_names_that_are_not_utf8_in_one_line(tmp_path, read):
    (tmp_path / BYTES).write_bytes(b"nothing")
    with refused("caf"):
        read(tmp_path / BYTES)


def test_open_episodes_rejects_a_manifest_that_is_a_pipe(pipe):
    with refused("is a pipe, a device or a socket"):
        open_episodes(None, Protocol("p", "voc"), pipe[0])


def test_resolved_rejects_links_that_lead_to_each_other(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "link").symlink_to("new")
    with refused(r"a: cannot be written \(Too many levels of symbolic links\)"):
        resolved(tmp_path / "a")
    assert resolved(tmp_path / "link") == tmp_path.resolve() / "new"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("how", ["own", "wrapped", "quoted"])
def test_writing_to_a_full_disk_is_worth_another_try(tmp_path, code, how):
    with refused(r"a\.json: cannot be written \(.*\); free some space and try again", status=1), writing("a.json"):
        try:
            raise OSError(code, os.strerror(code))
        except OSError as error:
            if how == "own":
                raise
            if how == "wrapped":
                raise OSError("the library's words") from error
        raise OSError(f"library: {os.strerror(code)} [while writing]")


def test_write_json_after_other_faults_is_not_worth_another_try(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.os, "replace", fail)
    with refused(r"cannot be written \(Read-only file system\); choose another place"):
        write_json(tmp_path / "a.json", {})
    assert os.listdir(tmp_path) == []


def test_records_append_reports_a_disk_that_fills_up(tmp_path):
    assert issubclass(TryAgainError, LDISError)

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    records = Records(tmp_path / "r.jsonl", {})
    file, records._file = records._file, Full()
    with refused(r"r\.jsonl: cannot be written", status=1):
        records.append({"a": 1})
    file.close()
