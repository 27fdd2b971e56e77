"""Model folders and Stable Diffusion checkpoints from the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.support.files import StrPath
from ldis_jax.weights.downloads import in_time, refusal
from ldis_jax.weights.named_models import TABLE, ready_folder, say
from ldis_jax.weights.network_files import DIFFUSERS, STEMS, TRANSFORMERS, find_weights

_CONFIGS = ("README.md", "model_index.json", "*config.json")
_SHARD = "-?????-of-?????"


def resolve(model: StrPath, revision: str | None = None, variant: str | None = None) -> Path:
    """A local folder of a model: one that is named is made on first use, one of the hub is downloaded.

    Of a repository only what a model needs is fetched: configs, the card, and one form of each network's weights. A
    download that was broken off keeps the files that came whole; where the hub is out of reach, or with
    ``HF_HUB_OFFLINE=1``, what is there already is taken.

    Args:
        model: a name of :data:`~ldis_jax.weights.named_models.TABLE`, a path, or a hub id. A name means the named
            model even where a folder is called like it; ``./NAME``, or what is no text, is the folder.
        revision: branch, tag or commit of a hub id.
        variant: of the weight files of a hub id.

    Raises:
        LDISError: none of the three, a missing file, or access refused.
        TryAgainError: a server is out of reach, or the disk is full.
    """
    is_name, model = isinstance(model, str) and model in TABLE, os.fspath(model)
    local = is_name or os.path.exists(model)
    if local and revision is not None:
        fault = LDISError(f"{model}: a named model or a local path has no revision {revision!r}")
    elif is_name:
        return named(model)
    elif model and local:
        return Path(model)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return _download(model, revision, variant)
    else:
        fault = _no_id(model)
    raise fault


def named(name: str) -> Path:
    """The folder of a named model; says so where a folder is called like it."""
    if os.path.exists(name):
        say(f"{name}: the named model is meant; write ./{name} for the {'folder' if os.path.isdir(name) else 'file'}")
    found = ready_folder(name)
    if found is None:
        from ldis_jax.weights.named_fetch import named_folder

        found = named_folder(name)
    return found


def _no_id(text: str) -> LDISError:
    return LDISError(
        f"{text!r}: no such folder (a run writes its model/ at its end), nor a named model ({', '.join(TABLE)}) or a "
        "hub id of the form owner/name"
    )


def _download(hub_id: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    where = hub_id if revision is None else f"{hub_id} at {revision}"
    try:
        files = _list_files(hub_id, revision)
        if files is None:
            return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
        if patterns := _needed(files, variant):
            return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
        wanted = f"unet/{DIFFUSERS[0]}{f'.{variant}' if variant else ''}.safetensors"
        refused = LDISError(f"{where}: the repository has no weights that LDIS reads, such as {wanted}")
    except Exception as error:  # the network, the disk, or what else may stop the library
        # The library counts as missing what we had no use for; what we miss ourselves is said on reading.
        if found := getattr(error, "snapshot_path", None):
            return Path(found)
        refused = _no_id(where) if isinstance(error, HFValidationError) else refusal(error, where)
    raise refused


def _list_files(hub_id: str, revision: str | None) -> list[str] | None:
    """The repository's files; None where the hub cannot be reached, at once instead of after the library's retries."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = in_time(lambda: HfApi().model_info(hub_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT))
    except Exception as error:
        answered = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
        if answered or isinstance(error, HFValidationError):
            raise
        return None  # offline, no connection, or a network that answers in the hub's place
    return [file.rfilename for file in info.siblings or ()]


def _needed(files: Sequence[str], variant: str | None) -> list[str]:
    """Patterns of the configs, the card, and one form of each network's weights; none where there are no weights."""
    patterns = []
    # At the root lie autoencoders and CLIP.
    for network, stems in (*STEMS.items(), ("", DIFFUSERS), ("", TRANSFORMERS)):
        prefix = f"{network}/" if network else ""
        names = {name.removeprefix(prefix) for name in files if name.startswith(prefix)}
        found = find_weights(names, stems, variant)
        if found is None:
            continue
        patterns.append(prefix + found)
        if index := re.fullmatch(r"(.+)\.(safetensors|bin)\.index(.*)\.json", found):
            stem, kind, suffix = index.groups()
            patterns += [f"{prefix}{stem}{end}.{kind}" for end in (f"{suffix}{_SHARD}", f"{_SHARD}{suffix}")]
    return [*_CONFIGS, *patterns] if patterns else []


def push(folder: Path, hub_id: str, *, private: bool = False) -> str:
    """Uploads a model folder, card included, and returns the address of its page.

    Raises:
        LDISError: no such id, or nobody is logged in who may write there.
        TryAgainError: the hub is out of reach.
    """
    from huggingface_hub import HfApi

    from ldis_jax.weights.model_folder import OWN_FILES, read_model_config, read_task

    read_task(folder), read_model_config(folder)  # nothing else is uploaded
    try:
        api = HfApi()
        api.create_repo(hub_id, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=hub_id,
            folder_path=folder,
            allow_patterns=[*OWN_FILES, *(f"{name}/*" for name in OWN_FILES)],
            commit_message="LDIS model folder of ldis_jax",
        )
        return str(done.repo_url)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        denied = status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError"
        refused = refusal(error, hub_id)
        if denied:
            refused = LDISError(f"{hub_id}: nobody is logged in who may write there; hf auth login with such a token")
    raise refused
