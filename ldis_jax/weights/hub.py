"""Model folders and Stable Diffusion checkpoints from the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ldis_jax.errors import LDISError, TryAgainError
from ldis_jax.support.files import is_full
from ldis_jax.weights.network_files import DIFFUSERS, STEMS, TRANSFORMERS, find_weights

# Models that come with the package; each has a card.
SHIPPED = {"tiny": Path(__file__).parents[1] / "assets" / "tiny"}
_CONFIGS = ("README.md", "model_index.json", "*config.json")
_SHARD = "-?????-of-?????"


def resolve(folder_or_hub_id: str, revision: str | None = None, variant: str | None = None) -> Path:
    """A local folder or file as it is, the shipped model "tiny", or the local copy of a hub repository.

    Of a repository only what a model needs is fetched: configs, the card, and one form of each network's weights. A
    download that was broken off keeps the files that came whole; where the hub is out of reach, or with
    ``HF_HUB_OFFLINE=1``, what is there already is taken.

    Raises:
        LDISError: neither a path nor a repository, a missing file, or access refused.
    """
    if folder_or_hub_id and os.path.exists(folder_or_hub_id):
        if revision is None:
            return Path(folder_or_hub_id)
        fault = LDISError(f"{folder_or_hub_id}: a local path has no revision {revision!r}")
    elif folder_or_hub_id in SHIPPED:
        return SHIPPED[folder_or_hub_id]
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", folder_or_hub_id):
        return _download(folder_or_hub_id, revision, variant)
    else:
        fault = _no_id(folder_or_hub_id)
    raise fault


def _no_id(text: str) -> LDISError:
    return LDISError(
        f"{text!r}: no such folder (a run writes its model/ at its end), nor 'tiny' or a hub id of the form owner/name"
    )


def _download(hub_id: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download

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
        refused = _refused(error, where)
    raise refused


def _refused(error: Exception, where: str) -> LDISError:
    """What an error of huggingface_hub means, and what to do."""
    from huggingface_hub import errors

    line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    match error:  # some are kinds of others
        case errors.HFValidationError():
            return _no_id(where)
        case errors.GatedRepoError():
            return LDISError(f"{where}: access refused; accept its terms on the hub, then log in: hf auth login")
        case errors.RevisionNotFoundError():
            return LDISError(f"{where}: the repository has no such revision; give a branch, tag or commit of it")
        case errors.RepositoryNotFoundError():
            return LDISError(
                f"{where}: no such folder and no such repository on the hub; a private one needs: hf auth login"
            )
        case errors.LocalEntryNotFoundError():
            return LDISError(
                f"{where}: no such folder, not in the hub's local cache, and the hub is out of reach; "
                "fetch it online once"
            )
    return (TryAgainError if is_full(error) else LDISError)(
        f"{where}: the hub did not give it ({line}); mend that and try again: whole files are kept"
    )


def _list_files(hub_id: str, revision: str | None) -> list[str] | None:
    """The repository's files; None where the hub cannot be reached, at once instead of after the library's retries."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi().model_info(hub_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
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
