"""Model folders and Stable Diffusion checkpoints from the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ldis_jax.convert.network_files import DIFFUSERS, STEMS, TRANSFORMERS, find_weights
from ldis_jax.errors import LDISError

_CONFIGS = ("README.md", "*.json", "*/*.json")


def resolve(folder_or_hub_id: str, revision: str | None = None, variant: str | None = None) -> Path:
    """A local folder or file as it is, or the local copy of a hub repository.

    Of a repository only what a model needs is fetched: configs, the card, and one form of each network's weights. A
    download that was cut off goes on where it stopped; ``HF_HUB_OFFLINE=1`` takes what is there already.

    Args:
        folder_or_hub_id: a path, or "owner/name".
        revision: branch, tag or commit.
        variant: of the weight files, such as "fp16".

    Raises:
        LDISError: neither a path nor a repository, a missing file, or access refused.
    """
    path = Path(folder_or_hub_id)
    if path.exists():
        if revision is not None:
            raise LDISError(f"{path}: a local path has no revision {revision!r}")
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", folder_or_hub_id):
        raise LDISError(f"{folder_or_hub_id}: no such folder, nor a hub id of the form owner/name")
    return _download(folder_or_hub_id, revision, variant)


def _download(hub_id: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = hub_id if revision is None else f"{hub_id} at {revision}"
    try:
        patterns = None
        try:
            files = HfApi().list_repo_files(hub_id, revision=revision)
        except HfHubHTTPError:
            raise
        except Exception:  # offline, or the hub cannot be reached: the library then looks into its cache
            files = []
        if files:
            patterns = [*_CONFIGS, *_weight_files(files, where, variant)]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=not files))
    except GatedRepoError:
        raise LDISError(f"{where}: access refused; accept its terms on the hub, then log in: hf auth login") from None
    except RevisionNotFoundError:
        raise LDISError(f"{where}: the repository has no such revision") from None
    except RepositoryNotFoundError:
        raise LDISError(
            f"{where}: no such folder and no such repository on the hub; a private one needs: hf auth login"
        ) from None
    except LocalEntryNotFoundError as error:
        # Offline the library counts as missing what we had no use for; what we miss ourselves is said on reading.
        if found := getattr(error, "snapshot_path", None):
            return Path(found)
        raise LDISError(
            f"{where}: no such folder, not in the hub's local cache, and the hub is out of reach; fetch it online once"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        line = " ".join(str(error).split())[:160]
        raise LDISError(f"{where}: no such folder, and the hub did not give it ({line})") from None


def _weight_files(files: Sequence[str], where: str, variant: str | None) -> list[str]:
    """Patterns of one form of each network's weights."""
    patterns = []
    for network, stems in {**STEMS, "": TRANSFORMERS}.items():
        prefix = f"{network}/" if network else ""
        names = {name.removeprefix(prefix) for name in files if name.startswith(prefix)}
        found = find_weights(names, stems, variant)
        if found is None:
            continue
        patterns.append(prefix + found)
        if found.endswith(".json"):  # the shards
            kind = "safetensors" if ".safetensors." in found else "bin"
            stem = stems[0] if kind == "safetensors" else stems[1]
            patterns.append(f"{prefix}{stem}*-of-*.{kind}")
    if not patterns:
        wanted = f"{DIFFUSERS[0]}.safetensors"
        raise LDISError(f"{where}: the repository has no weights that LDIS reads, such as unet/{wanted}")
    return patterns
