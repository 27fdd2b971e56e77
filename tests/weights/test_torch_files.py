"""Torch's files: tensors in, nothing executed, one clear line for the rest."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ldis_jax.errors import LDISError  # noqa: E402
from ldis_jax.weights.network_files import open_file  # noqa: E402
from ldis_jax.weights.tensors import from_array  # noqa: E402
from ldis_jax.weights.torch_files import open_torch, write_torch  # noqa: E402
from tests.reference import foreign  # noqa: E402
from tests.support import pickles  # noqa: E402

STATE = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(4, dtype=torch.bfloat16) / 3)


class Evil:
    """What an attacker pickles: reading it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"module": s}, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("zipped", [True, False])
def test_open_torch_reads_state_dicts(tmp_path, wrap, zipped):
    torch.save(wrap(STATE), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    weights = open_torch(tmp_path / "x.pt")
    assert {name: (t.shape, t.dtype) for name, t in weights.tensors.items()} == {
        "a": ((2, 3), "float32"),
        "b": ((4,), "bfloat16"),
    }
    np.testing.assert_array_equal(weights.tensors["a"].read(), STATE["a"].numpy())
    assert weights.tensors["b"].read().dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(weights.tensors["b"].read().astype(np.float32), STATE["b"].float().numpy())


class Scripted(torch.nn.Module):
    """A TorchScript archive runs this on loading."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self.weight = torch.nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, torch.Tensor, bool]):
        self.path, self.weight, self.training = state[0], state[1], state[2]
        torch.save(self.weight, self.path)


def test_open_torch_does_not_load_a_scripted_archive_where_none_belongs(tmp_path):
    marker = tmp_path / "executed"
    try:
        torch.jit.script(Scripted(str(marker))).save(tmp_path / "x.pt")
    except Exception as error:  # another torch may refuse to script it
        pytest.skip(f"cannot be scripted: {error}")
    marker.unlink(missing_ok=True)
    with pytest.raises(LDISError, match="a TorchScript archive"):
        open_torch(tmp_path / "x.pt")
    assert not marker.exists()


def test_open_torch_reads_negated_views(tmp_path):
    torch.save({"a": torch._neg_view(STATE["a"])}, tmp_path / "x.pt")
    np.testing.assert_array_equal(open_torch(tmp_path / "x.pt").tensors["a"].read(), -STATE["a"].numpy())


def test_write_torch_fails_with_one_clear_line(tmp_path):
    with pytest.raises(LDISError, match=r"x\.pt: cannot be written"):
        write_torch(tmp_path / "none" / ("x" * 300) / "x.pt", {"a": from_array(np.ones(2, np.float32))})


def test_open_torch_reads_parameters_and_transposed_tensors(tmp_path):
    torch.save({"a": torch.nn.Parameter(STATE["a"]), "t": STATE["b"].reshape(2, 2).T}, tmp_path / "x.pt")
    weights = open_torch(tmp_path / "x.pt")
    np.testing.assert_array_equal(weights.tensors["a"].read(), STATE["a"].numpy())
    assert weights.tensors["t"].read().shape == (2, 2)


def test_open_torch_reads_torchscript_only_where_asked(tmp_path):
    foreign.write_torchscript(tmp_path / "x.pt", {"visual.conv1.weight": np.ones((3, 2)), "proj": np.zeros(2)})
    with pytest.raises(LDISError, match=r"x\.pt: refused, a TorchScript archive, which is code; only --clip takes one"):
        open_torch(tmp_path / "x.pt")
    weights = open_torch(tmp_path / "x.pt", torchscript=True)
    assert {name: t.dtype for name, t in weights.tensors.items()} == {
        "visual.conv1.weight": "float16",
        "proj": "float16",
        "input_resolution": "int64",
    }
    np.testing.assert_array_equal(weights.tensors["visual.conv1.weight"].read(), np.ones((3, 2)))


def test_write_torch_writes_files_like_deepspeeds(tmp_path):
    write_torch(tmp_path / "x.pt", {"a": from_array(STATE["a"].numpy())})
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert list(state) == ["module"]
    torch.testing.assert_close(state["module"]["a"], STATE["a"], rtol=0, atol=0)


def nested_without_end(path, _):
    state = {}
    state["module"] = state
    torch.save(state, path)


def plain(content):
    return lambda path, _: path.write_bytes(content)


def in_archive(content):
    """In place of what torch has written."""

    def spoil(path, _):
        torch.save({"a": torch.ones(2)}, path)
        with zipfile.ZipFile(path) as found:
            files = {name: found.read(name) for name in found.namelist()}
        with zipfile.ZipFile(path, "w") as changed:
            for name, old in files.items():
                changed.writestr(name, content if name.endswith("data.pkl") else old)

    return spoil


def pickled(path, obj):
    with open(path, "wb") as file:
        pickle.dump(obj, file)


def zipped(path, compression, size):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(size))


SPOILED = {
    "malicious zip": (lambda path, evil: torch.save({"a": evil}, path), "refused, it asks to load .*mkdir"),
    "malicious legacy": (
        lambda path, evil: torch.save({"a": evil}, path, _use_new_zipfile_serialization=False),
        "refused, it asks to load .*mkdir",
    ),
    "malicious pickle": (pickled, "refused, "),
    "zip bomb": (lambda path, _: zipped(path, zipfile.ZIP_DEFLATED, 10**9), "refused, an archive that unpacks to 1 GB"),
    "another zip": (lambda path, _: zipped(path, zipfile.ZIP_STORED, 8), "cannot be read|expected a state dict"),
    "no tensors": (lambda path, _: torch.save({"a": 1}, path), ".* found no tensors"),
    "a list": (lambda path, _: torch.save([torch.ones(2)], path), ".* found no tensors"),
    "mixed": (
        lambda path, _: torch.save({"a": torch.ones(2), "b": 3}, path),
        r".* found 'b' \(int\)$",
    ),
    "sparse": (
        lambda path, _: torch.save({"a": torch.eye(3).to_sparse()}, path),
        r".* found 'a' \(torch.sparse_coo, cpu, torch.float32\)",
    ),
    "quantized": (
        lambda path, _: torch.save({"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)}, path),
        r".* found 'a' \(torch.strided, cpu, torch.quint8\)",
    ),
    "a name that is a tree": (lambda path, _: torch.save({((1, 2), 3): torch.ones(2)}, path), r".* found tuple \("),
    "a memo of gigabytes": (in_archive(pickles.MEMO), "cannot be read .*more time or memory"),
    "hashes without end": (in_archive(pickles.HASHES), "cannot be read .*more time or memory"),
    "an array of gigabytes": (in_archive(pickles.BYTEARRAY), "cannot be read .*more time or memory"),
    "a plain memo of gigabytes": (plain(pickles.MEMO), "cannot be read .*more time or memory"),
    "plain hashes without end": (plain(pickles.HASHES), "cannot be read .*more time or memory"),
    "text without end": (plain(pickles.LONG_BYTES), "cannot be read .*damaged|cannot be read .*remain"),
    "names": (lambda path, _: torch.save({1: torch.ones(2)}, path), r".* found 1 \("),
    "meta": (
        lambda path, _: torch.save({"a": torch.ones(2, device="meta")}, path),
        ".* found 'a' .*meta",
    ),
    "nested": (nested_without_end, "expected a state dict"),
    "text": (lambda path, _: path.write_text("<html>not found</html>"), "refused|cannot be read"),
    "empty": (lambda path, _: path.write_bytes(b""), "cannot be read"),
    "missing": (lambda path, _: None, "cannot be read .No such file"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_open_file_refuses_spoiled_files_in_one_line_and_runs_nothing(tmp_path, name):
    spoil, message = SPOILED[name]
    path, marker = tmp_path / "x.pt", tmp_path / "executed"
    spoil(path, Evil(marker))
    with pytest.raises(LDISError, match=f"x.pt: ({message})") as error:
        open_file(path)
    assert "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_open_file_refuses_truncated_files(tmp_path, keep):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(5000)}, path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(LDISError, match=r"x.pt: (refused|cannot be read)"):
        open_file(path)


def test_open_torch_does_not_make_a_huge_tensor_of_few_bytes(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "x.pt")
    assert open_torch(tmp_path / "x.pt").tensors["a"].shape == (10**12,)  # and fails where shapes are compared


def test_open_file_without_torch_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(LDISError, match=r"x.bin: torch's format; pip install -e '\.\[torch\]'"):
        open_file(tmp_path / "x.bin")
