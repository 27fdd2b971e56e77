"""Addresses of files: paths of this machine, the hub, other servers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from ldis_jax.errors import LDISError

_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<path>[^:]+))?")
_WEB = re.compile(r"(?P<url>https?://[^#\s]+)(#sha256=(?P<sha256>[0-9a-f]{64}))?")
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


class HubAddress(NamedTuple):
    """``owner/name[@revision][:path]``, a repository of the hub, or a file or folder in it."""

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        return f"{self.repo}{f'@{self.revision}' if self.revision else ''}{f':{self.path}' if self.path else ''}"


class WebAddress(NamedTuple):
    """``https://HOST/FILE[#sha256=DIGEST]``."""

    url: str
    sha256: str | None = None

    def __str__(self) -> str:
        return self.url


def parse_address(text: str) -> Path | HubAddress | WebAddress:
    """Reads a flag for a file or folder: a path, or an address; raises :class:`LDISError` where it is neither."""
    beside = os.path.isdir(os.path.dirname(text)) and text.endswith(_SUFFIXES)
    return Path(text) if os.path.exists(text) or beside else parse_remote(text)


def parse_remote(text: str) -> HubAddress | WebAddress:
    """An address, whatever is on this machine; raises :class:`LDISError` where it is none."""
    if (found := _WEB.fullmatch(text)) and (found["sha256"] or _is_private(found["url"])):
        return WebAddress(found["url"], found["sha256"])
    if found := _HUB.fullmatch(text):
        return HubAddress(found["repo"], found["revision"], found["path"] or "")
    raise LDISError(
        f"{text}: no such file, and no address: owner/name[@revision][:path] of the hub, or https://HOST/FILE"
        "[#sha256=DIGEST] (http:// with the digest only)"
    )


def _is_private(url: str) -> bool:
    """True if nobody on the way can change what comes from there."""
    return url.startswith("https://") or urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
