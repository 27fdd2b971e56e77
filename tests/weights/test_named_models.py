"""Models that have a name, from their publishers' servers: small ones on this machine, through the real library."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import socket
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from ldis_jax import LDISPipeline, convert, named_models, segment  # noqa: E402
from ldis_jax.errors import LDISError, TryAgainError  # noqa: E402
from ldis_jax.models.ldis import ModelConfig  # noqa: E402
from ldis_jax.tasks import LDIS1  # noqa: E402
from ldis_jax.weights import downloads, named_fetch, save_model  # noqa: E402
from ldis_jax.weights import named_models as table  # noqa: E402
from ldis_jax.weights.addresses import HubAddress  # noqa: E402
from ldis_jax.weights.hub import resolve  # noqa: E402
from tests.helpers import CLIP_TOWER, MICRO, call_command  # noqa: E402
from tests.reference import foreign  # noqa: E402
from tests.reference.weights import arrays, random_model  # noqa: E402
from tests.weights.fake_hub import FakeHub, error, send  # noqa: E402
from tests.weights.test_hub import files_of, point_to  # noqa: E402

SD15, LDIS, ALPHA = "stable-diffusion-v1-5/stable-diffusion-v1-5", "chaoyangw/ldis", "/weight/clip_l14.pth"
CONFIGS = {
    name: ModelConfig(type(config.unet)(**{**vars(config.unet), "encoder_hid_dim": 64}), config.vae, CLIP_TOWER)
    for name, config in MICRO.items()
}
CHECKPOINTS = {name: f"weights/{name}/mp_rank_00_model_states.pt" for name in CONFIGS}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What the three publishers have, small: {repository or path: {file: bytes}}."""
    root = tmp_path_factory.mktemp("published")
    model = random_model(CONFIGS["ldis1"])
    save_model(root / "sd15", LDIS1(), model, "---\nlicense: creativeml-openrail-m\n---\n")
    (root / "sd15" / "ldis_config.json").unlink()
    shutil.rmtree(root / "sd15" / "prompt_encoder")
    sd15 = {**files_of(root / "sd15"), "v1-5-pruned.ckpt": b"never fetched", "safety_checker/model.safetensors": b"nor"}
    sd15["unet/diffusion_pytorch_model.safetensors"] = b"nor this"
    ldis = {"datasets/voc.json": b"{}"}
    for name, config in CONFIGS.items():
        foreign.write_deepspeed(root / f"{name}.pt", arrays(random_model(config).unet))
        ldis[CHECKPOINTS[name]] = (root / f"{name}.pt").read_bytes()
    torch.save(foreign.tensors(arrays(model.prompt_encoder)), root / "alpha.pth")
    return {SD15: sd15, LDIS: ldis, ALPHA: (root / "alpha.pth").read_bytes()}


@pytest.fixture
def hub(tmp_path, monkeypatch, published):
    """The servers, for which the library and the table's addresses are turned to this machine."""
    hub = FakeHub()
    hub.add(published[SD15], SD15)
    hub.add(published[LDIS], LDIS)
    hub.web[ALPHA] = published[ALPHA]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LDIS_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64)  # what is written at once
    monkeypatch.setattr(named_fetch, "_CONVERTED_BYTES", 1_000_000)
    turn_to(monkeypatch, hub.url)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.stop()


def turn_to(monkeypatch, url):
    point_to(monkeypatch, url)
    for name in CONFIGS:
        row = table.TABLE[name]
        parts = {**row.parts, "alpha_clip": row.parts["alpha_clip"]._replace(address=f"{url}{ALPHA}")}
        monkeypatch.setitem(
            table.TABLE, name, table.NamedModel(row.about, row.license, None, row.task, parts, "little")
        )


def first_mask(monkeypatch, capsys, pictures, tmp_path, model="ldis1", *more):
    return call_command(
        segment.main, monkeypatch, capsys, f"--model={model}", f"--query={pictures['query']}",
        f"--prompt={pictures['prompt']}:{pictures['mask']}", f"--out={tmp_path / 'out.png'}", *more,
    )  # fmt: skip


def refusal(name="ldis1", kind=LDISError, **kwargs):
    """The one line that a fetch ends with; nothing half-written is left where models are."""
    with pytest.raises(LDISError) as caught:
        named_fetch.named_folder(name, **kwargs)
    assert type(caught.value) is kind, caught.value
    assert len(str(caught.value).splitlines()) == 1
    assert not [path for path in table.models_folder().glob("*") if not path.name.endswith(".lock")]
    return str(caught.value)


def downloads_of(hub):
    """Files that were asked for, not looked into; of the hub by their path in the repository."""
    paths = [path for method, path, asked in hub.log if is_transfer(method, path, asked)]
    return [path.partition("/resolve/")[2].partition("/")[2] or path for path in paths]


# --- One command ---


def test_segment_fetches_a_named_model_for_a_first_mask(hub, monkeypatch, capsys, pictures, tmp_path):
    status, _, err = first_mask(monkeypatch, capsys, pictures, tmp_path)
    assert status == 0, err
    for words in (
        "none stated by its publishers",
        "Open RAIL-M",
        "Apache-2.0",
        "To fetch: 0.00 GB",
        CHECKPOINTS["ldis1"],
    ):
        assert words in err
    assert set(downloads_of(hub)) == {
        CHECKPOINTS["ldis1"], "README.md", "unet/config.json", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", ALPHA,
    }  # fmt: skip

    first = (tmp_path / "out.png").read_bytes()
    hub.log.clear()
    hub.stop()
    status, _, err = first_mask(monkeypatch, capsys, pictures, tmp_path, "ldis1", "--offline")
    assert status == 0 and err == "" and not hub.log
    assert (tmp_path / "out.png").read_bytes() == first
    os.environ.pop("HF_HUB_OFFLINE")


def test_from_pretrained_loads_the_published_model(hub):
    """As ``convert`` makes it of the same files; the other task's parts are shared."""
    pipe = LDISPipeline.from_pretrained("ldis1")
    assert (pipe.task.name, pipe.task.mask_alpha) == ("ldis1", 0.0)
    unet = arrays(random_model(CONFIGS["ldis1"]).unet)
    for name, tensor in arrays(pipe.model.unet).items():
        np.testing.assert_array_equal(tensor, unet[name])
    card = (resolve("ldis1") / "README.md").read_text(encoding="utf-8")
    assert LDIS in card and "Not trained" not in card

    hub.log.clear()
    pipe = LDISPipeline.from_pretrained("ldisn")
    assert (pipe.task.name, pipe.task.mask_alpha) == ("ldisn", 0.4)
    assert downloads_of(hub) == [CHECKPOINTS["ldisn"]]


@pytest.mark.parametrize("pin", ["right", "wrong"])
def test_convert_takes_addresses(hub, monkeypatch, capsys, tmp_path, published, pin):
    digest = hashlib.sha256(published[ALPHA]).hexdigest()
    digest = digest if pin == "right" else digest[::-1]
    commit = hub.refs[LDIS, "main"]
    status, out, err = call_command(
        convert.main, monkeypatch, capsys, f"--sd15={SD15}", f"--ldis={LDIS}@{commit}:{CHECKPOINTS['ldisn']}",
        f"--alpha_clip={hub.url}{ALPHA}#sha256={digest}", f"--out={tmp_path / 'made'}",
    )  # fmt: skip
    if pin == "right":
        assert status == 0 and "with the paper's weights" in out, err
        assert LDISPipeline.from_pretrained(tmp_path / "made").task.name == "ldisn"
    else:
        assert status == 1 and "SHA-256" in err and err.count("error:") == 1
        assert not (tmp_path / "made").exists() and not list((tmp_path / "cache").rglob("*.incomplete"))


# --- Transfers that break ---


class Cuts(dict):
    """Ends the first three transfers of every file at random places."""

    def __init__(self):
        self.rng, self.cuts = random.Random(0), collections.Counter()

    def __contains__(self, name):
        return self.cuts[name] < 3

    def pop(self, name):
        self.cuts[name] += 1
        return self.answer

    def answer(self, request, headers, body):
        """An answer that ends early, as where a line goes down."""
        first = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        rest = body[first:]
        send(request, 206 if first else 200, headers, rest[: self.rng.randrange(len(rest))], length=len(rest))
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)


def test_named_folder_resumes_after_cuts_of_every_file(hub, monkeypatch, published):
    """At half of them the process ends, too. No byte that came is asked for again."""
    kills = 0

    def sleep(seconds):  # before the library tries again
        nonlocal kills
        if hub.cuts.rng.random() < 0.5:
            kills += 1
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    hub.cuts, folder, resumed = Cuts(), None, 0
    while folder is None:
        kept = next((path.stat().st_size for path in downloads.parts_folder().rglob("*.incomplete")), 0)
        hub.log.clear()
        with contextlib.suppress(KeyboardInterrupt):
            folder = named_fetch.named_folder("ldis1")
        asked = [asked for method, path, asked in hub.log if is_transfer(method, path, asked)]
        assert asked[0] == (f"bytes={kept}-" if kept else None)
        resumed += sum(start is not None for start in asked)
    assert hub.cuts.cuts.total() == 21 and kills >= 5 and resumed >= 15
    assert not list(downloads.parts_folder().rglob("*.incomplete"))
    (file,) = downloads.ask_hub(HubAddress(LDIS, None, CHECKPOINTS["ldis1"]))
    assert file.path.read_bytes() == published[LDIS][CHECKPOINTS["ldis1"]]
    assert LDISPipeline.from_pretrained(folder).task.name == "ldis1"


def is_transfer(method, path, asked):
    """Whether a file is asked for from some place to its end; a look into one asks for a part of it."""
    return method == "GET" and not path.startswith("/api/") and (asked is None or asked.endswith("-"))


class Unavailable(dict):
    """The checkpoint may be looked into, and does not come."""

    def __contains__(self, name):
        return name == CHECKPOINTS["ldis1"]

    def pop(self, name):
        return lambda request, headers, body: send(request, 503)


def test_named_folder_does_not_fetch_again_what_is_whole(hub, monkeypatch):
    hub.refusals[ALPHA] = 503, {}
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    message = refusal(kind=TryAgainError)
    assert ALPHA in message
    del hub.refusals[ALPHA]
    hub.cuts = Unavailable()
    with pytest.raises(TryAgainError):
        named_fetch.named_folder("ldis1")
    assert table.ready_folder("ldis1") is None and named_fetch.verify("ldis1") == 0  # nothing is whole yet
    hub.cuts = {}
    hub.log.clear()
    named_fetch.named_folder("ldis1")
    assert downloads_of(hub) == [CHECKPOINTS["ldis1"]]


# --- Refusals ---


@pytest.mark.parametrize("cached", [False, True])
def test_segment_without_network_needs_a_fetched_model(hub, monkeypatch, capsys, pictures, tmp_path, cached):
    if cached:
        named_fetch.named_folder("ldis1")
    hub.stop()
    started = time.monotonic()
    status, _, err = first_mask(monkeypatch, capsys, pictures, tmp_path)
    assert time.monotonic() - started < 30
    if cached:
        assert status == 0
    else:
        assert status == 1 and len(err.splitlines()) == 1
        assert SD15 in err and str(tmp_path / "cache") in err
        assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("refused", "kind", "words"),
    [
        ((401, error("GatedRepo", "gated")), LDISError, "accept its terms"),
        ((403, error("GatedRepo", "gated")), LDISError, "accept its terms"),
        ((500, {}), TryAgainError, "try again"),
    ],
)
def test_named_folder_explains_a_repository_that_is_refused(hub, refused, kind, words):
    hub.refusals[f"/api/models/{SD15}"] = refused
    message = refusal(kind=kind)
    assert SD15 in message and words in message


def test_named_folder_explains_a_web_server_that_lost_the_file(hub):
    del hub.web[ALPHA]
    assert "check the address" in refusal()


def test_find_ldis_searches_a_repository_with_other_names(hub, published):
    other = {f"weights/final/{name}.bin": body for name, body in
             ((name, published[LDIS][path]) for name, path in CHECKPOINTS.items())}  # fmt: skip
    hub.add(other, LDIS)
    assert named_fetch.find_ldis(f"{LDIS}:weights", "ldisn").name == f"{LDIS}:weights/final/ldisn.bin"
    hub.add({"weights/readme.txt": b"moved"}, LDIS)
    assert "no such file" in refusal()
    hub.add({"weights/a/mp_rank_00_model_states.pt": torch_file({"conv_in.weight": torch.zeros(3, 3)})}, LDIS)
    assert "holds no checkpoint of ldis1" in refusal()


def torch_file(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def test_named_folder_asks_which_of_two_candidates_is_meant(hub, published):
    body = published[LDIS][CHECKPOINTS["ldis1"]]
    names = [f"weights/{run}/mp_rank_00_model_states.pt" for run in ("a", "b")]
    hub.add(
        dict.fromkeys(names, body) | {"weights/c/mp_rank_00_model_states.pt": published[LDIS][CHECKPOINTS["ldisn"]]},
        LDIS,
    )
    message = refusal()
    assert [f"--ldis={LDIS}:{name}" in message for name in (*names, "weights/c")] == [True, True, False]
    folder = named_fetch.named_folder("ldis1", ldis=f"{LDIS}:{names[1]}")
    assert LDISPipeline.from_pretrained(folder).task.name == "ldis1"


def test_named_folder_fetches_nothing_to_a_full_disk(hub, monkeypatch, tmp_path):
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert "GB are needed" in refusal(kind=TryAgainError)
    assert not downloads_of(hub)


def test_fetch_refuses_damaged_content(hub, monkeypatch, published):
    """The hub announces a SHA-256, and another file comes."""
    commit = hub.refs[LDIS, "main"]
    (file,) = downloads.ask_hub(HubAddress(LDIS, None, CHECKPOINTS["ldis1"]))
    body = published[LDIS][CHECKPOINTS["ldis1"]]
    damaged = bytearray(body)
    damaged[len(damaged) // 2] ^= 1
    hub.commits[LDIS, commit] = {**published[LDIS], CHECKPOINTS["ldis1"]: bytes(damaged)}
    with pytest.raises(TryAgainError, match="SHA-256"):
        downloads.fetch(file)
    assert file.missing == file.size


# --- The command ---


def test_named_models_lists_verifies_and_removes(hub, monkeypatch, capsys, tmp_path):
    command = lambda *args: call_command(named_models.main, monkeypatch, capsys, *args)  # noqa: E731
    assert all(word in command()[1] for word in ("small", "tiny", "ldis1", "ldisn", "bundled", "GB to fetch"))
    status, out, err = command("fetch", "ldis1", "ldisn")
    assert status == 0 and out.count(str(tmp_path / "cache")) == 2, err
    status, _, _ = command("list", f"--json={tmp_path / 'table.json'}")
    assert json.loads((tmp_path / "table.json").read_text())["ldis1"]["folder"] == str(resolve("ldis1"))
    assert command("verify", "ldis1")[0] == 0

    weights = resolve("ldis1") / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    status, out, err = command("verify", "ldis1")
    assert status == 2 and "is not what was fetched" in err

    status, out, err = command("remove", "ldis1")
    assert status == 0 and "ldis1-" in out and "clip_l14" not in out
    assert table.ready_folder("ldis1") is None and table.ready_folder("ldisn") is not None
    status, out, _ = command("remove", "ldisn")
    assert status == 0 and "clip_l14" in out
    assert not [
        path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix not in (".lock", ".json")
    ]
    assert command("remove", "ldisn")[0] == command("verify", "tiny")[0] == command("fetch", "no")[0] == 2
    assert "no named model" in command("remove", "../models/ldis1")[2]


def test_resolve_prefers_a_name_to_a_folder(hub, monkeypatch, tmp_path, capfd, micro_folder):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(micro_folder, tmp_path / "tiny")
    assert resolve("tiny") == table.TABLE["tiny"].folder
    assert "write ./tiny for the folder" in capfd.readouterr().err
    assert resolve("./tiny") == Path("tiny")
