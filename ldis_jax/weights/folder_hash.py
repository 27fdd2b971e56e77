"""Which model a folder holds, in a few digits."""

from __future__ import annotations

import hashlib
from pathlib import Path


def model_hash(folder: Path) -> str:
    """16 hex digits of the SHA-256 over a model folder's files, its card left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
