"""Downloads through the real huggingface_hub library, from a small hub on this machine."""

from __future__ import annotations

import json
import socket
import struct
import time
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import constants
from safetensors.numpy import load_file, save

from ldis_jax import LDISPipeline, convert
from ldis_jax.errors import LDISError
from ldis_jax.weights import load_model
from ldis_jax.weights.hub import resolve
from ldis_jax.weights.model_folder import open_weights
from tests.helpers import call_command
from tests.weights.fake_hub import ID, FakeHub, error, is_download, send

UNET = "unet/diffusion_pytorch_model"
VAE = "vae/diffusion_pytorch_model"
FORMS = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
# Stable Diffusion 1.5 as the hub has it: what LDIS needs whatever the form of the weights ...
CONFIGS = {
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "vae/config.json",
}
# ... and what it never needs.
UNUSED = {
    ".gitattributes",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_flax_model.msgpack",
    "v1-5-pruned-emaonly.safetensors",
    "v1-5-pruned.ckpt",
}


def shards(stem, kind, suffix=""):
    """Index and two shards of a network's weights, under the names that diffusers and transformers give them."""
    return {f"{stem}.{kind}.index{suffix}.json"} | {f"{stem}{suffix}-0000{i}-of-00002.{kind}" for i in (1, 2)}


def files_of(folder):
    """Its content but for Python, which is never fetched."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def point_to(monkeypatch, url):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def go_offline(monkeypatch, hub):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()


def break_connection(monkeypatch, hub):
    """From now on nothing listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    point_to(monkeypatch, f"http://127.0.0.1:{port}")
    hub.log.clear()


def overload(monkeypatch, hub):
    hub.refusals["/"] = 503, {}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that the library takes for the real one, with a cache of its own and nobody's token."""
    hub = FakeHub()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    point_to(monkeypatch, hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.stop()


def refusal(*args, name=ID, **kwargs):
    """The message of a refused id: one line that names it."""
    with pytest.raises(LDISError) as caught:
        resolve(*args, **kwargs)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert name in message
    return message


# --- What is fetched ---


@pytest.mark.parametrize("sharded", [False, True])
def test_resolve_fetches_a_model_that_loads(hub, micro_folder, capfd, sharded):
    files = files_of(micro_folder)
    if sharded:
        tensors = load_file(micro_folder / f"{UNET}.safetensors")
        del files[f"{UNET}.safetensors"]
        index, *names = sorted(shards(UNET, "safetensors"), key=lambda name: "index" not in name)
        place = {key: names[i % 2].removeprefix("unet/") for i, key in enumerate(tensors)}
        for name in names:
            part = {key: tensors[key] for key in tensors if place[key] == name.removeprefix("unet/")}
            files[name] = save(part)
        files[index] = json.dumps({"weight_map": place}).encode()
    hub.add(files | dict.fromkeys(UNUSED, b"unused"))

    folder = resolve(ID)

    assert hub.fetched() == files.keys()
    assert "Fetching" in capfd.readouterr().err  # a progress bar
    ours, expected = load_model(folder), load_model(micro_folder)
    assert (ours.task, ours.card) == (expected.task, expected.card)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(ours.model), nnx.state(expected.model))


@pytest.mark.parametrize(
    ("variant", "there", "expected"),
    [
        (None, {UNET + form for form in FORMS} | {VAE + form for form in FORMS}, {f"{UNET}.safetensors"}),
        ("fp16", {UNET + form for form in FORMS}, {f"{UNET}.fp16.safetensors"}),
        (None, {f"{UNET}.bin", f"{UNET}.fp16.safetensors"}, {f"{UNET}.bin"}),
        (None, {f"{UNET}.fp16.bin", f"{UNET}.fp16.safetensors"}, {f"{UNET}.fp16.safetensors"}),
        ("non_ema", {UNET + form for form in FORMS}, {f"{UNET}.non_ema.safetensors"}),
    ],
)
def test_resolve_fetches_one_form_of_weights(hub, variant, there, expected):
    hub.add(CONFIGS | UNUSED | there)
    resolve(ID, variant=variant)
    expected = expected | {f"{VAE}.safetensors"} if f"{VAE}.safetensors" in there else expected
    assert hub.fetched() == CONFIGS | expected


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(("variant", "suffix"), [(None, ""), ("fp16", ".fp16")])
def test_resolve_fetches_the_shards_of_one_form(hub, kind, variant, suffix):
    hub.add(CONFIGS | UNUSED | shards(UNET, kind) | shards(UNET, kind, ".fp16"))
    resolve(ID, variant=variant)
    assert hub.fetched() == CONFIGS | shards(UNET, kind, suffix)


@pytest.mark.parametrize("weights", ["diffusion_pytorch_model.safetensors", "model.safetensors"])
def test_resolve_fetches_a_network_at_the_root(hub, weights):
    """As stabilityai/sd-vae-ft-mse and openai/clip-vit-large-patch14 are."""
    hub.add({"README.md", "config.json", weights, "other.safetensors", "flax_model.msgpack"})
    resolve(ID)
    assert hub.fetched() == {"README.md", "config.json", weights}


def test_resolve_fetches_nothing_the_second_time(hub, micro_folder):
    hub.add(files_of(micro_folder))
    folder = resolve(ID)
    hub.log.clear()
    assert resolve(ID) == folder
    assert not hub.fetched()


# --- Revisions ---


def test_resolve_takes_revisions(hub, micro_folder):
    files = files_of(micro_folder)
    old = hub.add(files | {"README.md": b"old"}, ref="v1")
    new = hub.add(files | {"README.md": b"new"})
    for revision, card in ((None, "new"), ("main", "new"), ("v1", "old"), (old, "old"), (new, "new")):
        assert (resolve(ID, revision) / "README.md").read_text() == card
    assert LDISPipeline.from_pretrained(ID, revision="v1")._card == "old"


def test_resolve_follows_a_branch_that_moves_on(hub):
    hub.add({f"{UNET}.safetensors": b"old", "README.md": b"same"})
    resolve(ID)
    hub.log.clear()
    hub.add({f"{UNET}.safetensors": b"new", "README.md": b"same"})
    folder = resolve(ID)
    assert hub.fetched() == {f"{UNET}.safetensors"}
    assert (folder / f"{UNET}.safetensors").read_bytes() == b"new"


# --- Without the hub ---


@pytest.mark.parametrize("trouble", [go_offline, break_connection, overload])
@pytest.mark.parametrize("revision", [None, "v1", "commit"])
def test_resolve_reads_the_cache_without_the_hub(hub, micro_folder, monkeypatch, trouble, revision):
    """Though the files that nothing needs were never fetched."""
    commit = hub.add(files_of(micro_folder) | dict.fromkeys(UNUSED, b"unused"), ref=revision or "main")
    revision = commit if revision == "commit" else revision
    folder = resolve(ID, revision)
    trouble(monkeypatch, hub)
    start = time.perf_counter()
    assert resolve(ID, revision) == folder
    assert time.perf_counter() - start < 10  # the library's own retries take 23 s
    assert trouble is overload or not hub.log
    if trouble is go_offline and revision is None:
        load_model(folder)


@pytest.mark.parametrize("trouble", [go_offline, break_connection, overload])
def test_resolve_fails_without_cache_and_hub(hub, monkeypatch, trouble):
    hub.add(CONFIGS | {f"{UNET}.safetensors"})
    trouble(monkeypatch, hub)
    assert "not in the hub's local cache" in refusal(ID)


def test_resolve_passes_over_the_cache_of_another_revision(hub, monkeypatch):
    hub.add(CONFIGS | {f"{UNET}.safetensors"})
    resolve(ID)
    go_offline(monkeypatch, hub)
    assert "not in the hub's local cache" in refusal(ID, "v2", name=f"{ID} at v2")


# --- Cut connections ---


def test_resolve_resumes_a_cut_download_where_it_stopped(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # what was received is kept in whole chunks
    name, body = f"{UNET}.safetensors", np.random.default_rng(0).bytes(2**20)

    def cut(request, headers, body):
        send(request, 200, headers, body[: len(body) // 2], len(body))
        request.close_connection = True

    hub.add({"README.md": b"card", name: body})
    hub.cuts[name] = cut
    assert (resolve(ID) / name).read_bytes() == body
    ranges = [asked for method, path, asked in hub.log if is_download(method, path) and path.endswith(name)]
    assert ranges == [None, f"bytes={2**19}-"]


def test_resolve_keeps_whole_files_of_a_broken_download(hub, monkeypatch, micro_folder):
    files = files_of(micro_folder)
    name = f"{UNET}.safetensors"

    def reset(request, headers, body):
        for _ in range(1000):  # the other files first
            if hub.fetched() == files.keys():
                break
            time.sleep(0.01)
        send(request, 200, headers, body[: len(body) // 2], len(body))
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.close_connection = True
        request.rfile.close()  # the last but one hold on the socket
        request.connection.close()

    hub.add(files)
    hub.cuts[name] = reset
    assert "again" in refusal(ID)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LDISError, match=rf"{name}: no such file") as caught:
        load_model(resolve(ID))
    assert "\n" not in str(caught.value)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.log.clear()
    folder = resolve(ID)
    assert hub.fetched() == {name}
    assert (folder / name).read_bytes() == files[name]
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


# --- Refusals ---


@pytest.mark.parametrize(
    ("start", "status", "headers", "match"),
    [
        (f"/{ID}/", 403, error("GatedRepo", "You are not in the authorized list"), "accept its terms .* hf auth login"),
        ("/", 401, error("GatedRepo", "Access to model is restricted"), "accept its terms .* hf auth login"),
        ("/", 401, error("RepoNotFound", "Invalid username or password."), "no such repository .* hf auth login"),
        ("/", 404, error("RepoNotFound", "Repository not found"), "no such repository .* hf auth login"),
        ("/", 403, {"X-Error-Message": "Access to this resource is disabled."}, "disabled"),
        ("/", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "Invalid credentials"),
        ("/", 429, {}, "429"),
        (f"/{ID}/", 404, error("EntryNotFound", "Entry not found"), "404"),
    ],
)
def test_resolve_explains_refusals_of_the_hub(hub, start, status, headers, match):
    hub.add(CONFIGS | {f"{UNET}.safetensors"})
    hub.refusals[start] = status, headers
    message = refusal(ID)
    with pytest.raises(LDISError, match=match):
        raise LDISError(message)


def test_resolve_refuses_a_repository_that_is_not_there(hub):
    assert "no such repository on the hub" in refusal("owner/another", name="owner/another")


@pytest.mark.parametrize("revision", ["v2", "0" * 40, "feature/x"])
def test_resolve_refuses_a_revision_that_is_not_there(hub, revision):
    hub.add(CONFIGS | {f"{UNET}.safetensors"})
    assert "no such revision" in refusal(ID, revision, name=f"{ID} at {revision}")


@pytest.mark.parametrize("files", [set(), {".gitattributes"}, CONFIGS | UNUSED])
def test_resolve_refuses_a_repository_without_weights(hub, files):
    hub.add(files)
    assert "no weights that LDIS reads, such as unet/" in refusal(ID)
    assert not hub.fetched()


def test_resolve_refuses_a_variant_without_weights(hub):
    hub.add(CONFIGS | {f"{UNET}.safetensors"})
    assert f"{UNET}.bf16.safetensors" in refusal(ID, variant="bf16")


def test_load_model_names_the_weights_that_are_not_there(hub, micro_folder):
    """The reader says it, for only the caller knows which networks it needs."""
    files = files_of(micro_folder)
    del files[f"{VAE}.safetensors"]
    hub.add(files)
    folder = resolve(ID)
    for read in (lambda: load_model(folder), lambda: open_weights(folder / "vae", "vae", "fp16")):
        with pytest.raises(LDISError, match=r"models--owner--model.*: no such file") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "a/b/c",
        "nowhere",
        "",
        " ",
        "../no such folder",
        "./x",
        "/x",
        "a/",
        "a b/c",
        "a\nb/c",
        "a--b/c",
        "a/b.git",
        "a/.b",
        "ä/ö",
        "a/b:c",
    ],
)
def test_resolve_refuses_what_is_no_id(hub, name):
    assert "owner/name" in refusal(name, name=repr(name)[1:-1])
    assert not hub.log


def test_resolve_takes_a_local_path(hub, micro_folder):
    assert resolve(str(micro_folder)) == micro_folder
    assert "a local path has no revision 'v1'" in refusal(str(micro_folder), "v1", name=str(micro_folder))
    assert not hub.log


# --- Upload ---


def test_push_to_hub_uploads_a_folder_that_resolve_fetches(hub, monkeypatch, micro_folder, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    page = LDISPipeline.from_pretrained(micro_folder).push_to_hub("me/mine")
    assert page == f"{hub.url}/me/mine"
    files = hub.commits["me/mine", hub.refs["me/mine", "main"]]
    assert {"README.md", "ldis_config.json", "model_index.json", "pipeline.py", f"{UNET}.safetensors"} <= files.keys()
    ours, back = load_model(micro_folder), load_model(resolve("me/mine"))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(back.model), nnx.state(ours.model))

    status, out, _ = call_command(convert.main, monkeypatch, capsys, f"--model={micro_folder}", "--push=me/other")
    assert status == 0 and out == f"{hub.url}/me/other\n"
    hub.refusals["/api/repos/create"] = 401, {}
    status, out, err = call_command(convert.main, monkeypatch, capsys, f"--model={micro_folder}", "--push=me/third")
    assert status == 2 and "logged in who may write" in err
