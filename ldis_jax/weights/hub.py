"""Model folders and Stable Diffusion checkpoints from the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.weights.network_files import DIFFUSERS, STEMS, TRANSFORMERS, find_weights
from ldis_jax.weights.shipped import shipped_folder

_CONFIGS = ("README.md", "model_index.json", "*config.json")
_SHARD = "-?????-of-?????"


def resolve(folder_or_hub_id: str, revision: str | None = None, variant: str | None = None) -> Path:
    """A local folder or file as it is, or the local copy of a hub repository.

    Of a repository only what a model needs is fetched: configs, the card, and one form of each network's weights. A
    download that was broken off keeps the files that came whole; where the hub is out of reach, or with
    ``HF_HUB_OFFLINE=1``, what is there already is taken.

    Args:
        folder_or_hub_id: a path, or "owner/name"; or "tiny", the shipped model, where there is no such folder.
        revision: branch, tag or commit.
        variant: of the weight files, such as "fp16".

    Raises:
        LDISError: neither a path nor a repository, a missing file, or access refused.
    """
    path = Path(folder_or_hub_id)
    try:
        exists = bool(folder_or_hub_id) and path.exists()
    except OSError as error:
        raise LDISError(f"{folder_or_hub_id[:80]}: cannot be read ({error.strerror or error})") from None
    if exists:
        if revision is not None:
            raise LDISError(f"{path}: a local path has no revision {revision!r}")
        return path
    if shipped := shipped_folder(folder_or_hub_id):
        return shipped
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", folder_or_hub_id):
        raise _no_id(folder_or_hub_id)
    return _download(folder_or_hub_id, revision, variant)


def _no_id(text: str) -> LDISError:
    return LDISError(
        f"{text!r}: no such folder (a run writes its model/ at its end), nor 'tiny' or a hub id of the form owner/name"
    )


def _download(hub_id: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = hub_id if revision is None else f"{hub_id} at {revision}"
    try:
        files = _list_files(hub_id, revision)
        if files is None:
            return _cached(hub_id, revision)
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=_needed(files, where, variant)))
    except LDISError:
        raise
    except HFValidationError:
        raise _no_id(hub_id) from None
    except GatedRepoError:
        raise LDISError(f"{where}: access refused; accept its terms on the hub, then log in: hf auth login") from None
    except RevisionNotFoundError:
        raise LDISError(f"{where}: the repository has no such revision; give a branch, tag or commit of it") from None
    except RepositoryNotFoundError:
        raise LDISError(
            f"{where}: no such folder and no such repository on the hub; a private one needs: hf auth login"
        ) from None
    except LocalEntryNotFoundError:
        raise LDISError(
            f"{where}: no such folder, not in the hub's local cache, and the hub is out of reach; fetch it online once"
        ) from None
    except Exception as error:  # the network, the disk, or what else may stop the library
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise LDISError(
            f"{where}: the hub did not give it ({line}); mend that and try again: whole files are kept"
        ) from None


def _list_files(hub_id: str, revision: str | None) -> list[str] | None:
    """The repository's files; None where the hub cannot be reached, at once instead of after the library's retries."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi().model_info(hub_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except HFValidationError:
        raise
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return None
    except Exception:  # offline, no connection, or a network that answers in the hub's place
        return None
    return [file.rfilename for file in info.siblings or ()]


def _cached(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        # The library counts as missing what we had no use for; what we miss ourselves is said on reading.
        if found := getattr(error, "snapshot_path", None):
            return Path(found)
        raise


def _needed(files: Sequence[str], where: str, variant: str | None) -> list[str]:
    """Patterns of the configs, the card, and one form of each network's weights."""
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
    if not patterns:
        wanted = f"unet/{DIFFUSERS[0]}{f'.{variant}' if variant else ''}.safetensors"
        raise LDISError(f"{where}: the repository has no weights that LDIS reads, such as {wanted}")
    return [*_CONFIGS, *patterns]
