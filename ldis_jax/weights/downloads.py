"""Files of other people's servers: what is there, and downloads that resume where they were interrupted.

Transfers are huggingface_hub's, of the hub and of any other server. Its own cache is read, and left as it is.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.errors import LDISError, TryAgainError, list_names
from ldis_jax.runtime.home import cache_folder
from ldis_jax.support.files import write_json, writing
from ldis_jax.support.json_files import read_json
from ldis_jax.weights.addresses import HubAddress, WebAddress, parse_address

T = TypeVar("T")
_ANSWER_SECONDS = 20  # of a server, whatever the number of its addresses


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file as a server has it now.

    Attributes:
        name: what people are told.
        url: where its bytes are.
        size: in bytes.
        place: where it is kept, below :func:`parts_folder`.
        inside: its path in a repository.
        commit: of that.
        sha256: of its content, where the address or the server says so.
        cached: its place in the hub's own cache, if it is there.
        on_hub: whether the hub's token may go with the request.
    """

    name: str
    url: str
    size: int
    place: str
    inside: str = ""
    commit: str = ""
    sha256: str | None = None
    cached: Path | None = None
    on_hub: bool = False

    @property
    def path(self) -> Path:
        """Where it is on this machine, once :func:`fetch` has returned."""
        return self.cached or parts_folder() / self.place

    @property
    def missing(self) -> int:
        """How many of its bytes are still to come."""
        if self.path.is_file():
            return 0
        partial = _partial(self)
        return self.size - (partial.stat().st_size if partial.is_file() else 0)


def parts_folder() -> Path:
    """Where files from other servers are kept as they came."""
    return cache_folder() / "parts"


def local_file(text: str) -> Path:
    """A file that a flag names, fetched first where it is an address.

    Raises:
        LDISError: no such file here or there, access refused, another content than the address says.
        TryAgainError: the server is out of reach, or the disk is full.
    """
    address = parse_address(text)
    if isinstance(address, Path):
        return address
    if isinstance(address, WebAddress):
        return fetch(ask_server(address))
    files = ask_hub(address)
    if len(files) != 1:
        raise LDISError(f"{text}: has several files, name one: {list_names(file.name for file in files)}")
    return fetch(files[0])


# --- What is there ---


def ask_server(address: WebAddress) -> RemoteFile:
    """The file behind a URL; a first byte is asked for, since servers of signed links refuse what is no GET.

    Where the server is out of reach, what it said last counts.

    Raises:
        LDISError: the server has no such file, or does not give it.
        TryAgainError: it cannot be reached, and has never been asked.
    """
    url, sha256 = address
    folder = parts_folder() / "web"
    if sha256 and (kept := parts_folder() / _web_place(url, sha256)).is_file():  # whatever the server says
        return RemoteFile(url, url, kept.stat().st_size, _web_place(url, sha256), sha256=sha256)
    last = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"
    try:
        answer = in_time(lambda: _first_byte(url))
        write_json(last, answer)
    except Exception as error:  # the network, the server, or a server that is none
        refused = refusal(error, url, folder)
        if not isinstance(refused, TryAgainError) or not last.is_file():
            raise refused from None
        answer = read_json(last, _Answer)
    return RemoteFile(url, url, answer["size"], _web_place(url, sha256 or answer["version"]), sha256=sha256)


class _Answer(TypedDict):
    """A server's last answer about a file."""

    size: int
    version: str


def _first_byte(url: str) -> _Answer:
    """How many bytes are behind a URL, and what changes with them."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import hf_raise_for_status

    headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout) as answer:
        hf_raise_for_status(answer)
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        size = total if answer.status_code == 206 else answer.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise LDISError(f"{url}: the server does not give it (it does not say its size); fetch it by other means")
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or size
        return {"size": int(size), "version": version}


class _File(TypedDict):
    """A file of a listing."""

    name: str
    size: int
    sha256: str | None


class _Listing(TypedDict):
    """The last known content of a repository."""

    commit: str
    files: list[_File]


def ask_hub(address: HubAddress, patterns: Sequence[str] = ("*",)) -> list[RemoteFile]:
    """The files of a repository, below the address's path, whose names fit a pattern.

    Where the hub is out of reach, what it said last counts.

    Raises:
        LDISError: no such repository, revision or file, or access refused.
        TryAgainError: the hub cannot be reached, and has never been asked.
    """
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    repo, revision, inside = address
    folder = parts_folder() / "hub" / repo.replace("/", "--")
    kept = folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', revision or 'main')}.json"
    try:
        listing = in_time(lambda: _list(repo, revision))
        write_json(kept, listing)
    except Exception as error:
        refused = refusal(error, str(address), folder)
        if not isinstance(refused, TryAgainError) or not kept.is_file():
            raise refused from None
        listing = read_json(kept, _Listing)
    commit, found = listing["commit"], []
    for file in listing["files"]:
        name, parts = file["name"], Path(file["name"]).parts
        below = not inside or name == inside or name.startswith(f"{inside.rstrip('/')}/")
        if not below or ".." in parts or os.path.isabs(name) or not any(fnmatch.fnmatch(name, p) for p in patterns):
            continue
        cached = try_to_load_from_cache(repo, name, revision=commit)
        found.append(
            RemoteFile(
                str(HubAddress(repo, revision, name)),
                hf_hub_url(repo, name, revision=commit),
                file["size"],
                os.path.join("hub", folder.name, commit[:12], name),
                name,
                commit,
                file["sha256"],
                Path(cached) if isinstance(cached, str) else None,
                on_hub=True,
            )
        )
    if not found:
        raise LDISError(f"{address}: the repository has no such file")
    return found


def _list(repo: str, revision: str | None) -> _Listing:
    from huggingface_hub import HfApi, constants

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    if not re.fullmatch("[0-9a-f]{40}", info.sha or ""):
        raise LDISError(f"{repo}: the server does not give it (no commit, but {info.sha!r}); is it the hub's?")
    files: list[_File] = []
    for file in info.siblings or ():
        if file.size is not None:
            files.append({"name": file.rfilename, "size": file.size, "sha256": file.lfs.sha256 if file.lfs else None})
    return {"commit": info.sha or "", "files": files}


def in_time(ask: Callable[[], T]) -> T:
    """Returns or raises what ``ask`` does; a connection is tried at every address of a host, which may take minutes."""
    _check_online()
    answers: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def work() -> None:
        try:
            answers.put((True, ask()))
        except BaseException as error:  # it is raised below
            answers.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        whole, answer = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {_ANSWER_SECONDS} s") from None
    if not whole:
        raise answer
    return answer


# --- Transfers ---


def fetch(file: RemoteFile) -> Path:
    """The file on this machine, whole and as it should be; what a broken transfer left is gone on with.

    Raises:
        LDISError: the server does not give it.
        TryAgainError: the connection broke for good, the disk is full, or the content is not what was announced.
    """
    from filelock import FileLock
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    target = file.path
    if target.is_file():
        return target
    partial = _partial(file)
    with writing(target):
        partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_online()
        with FileLock(f"{partial}.lock"):
            if target.is_file():  # another process's
                return target
            if partial.is_file() and partial.stat().st_size > file.size:
                partial.unlink()
            headers = build_hf_headers() if file.on_hub else None
            with partial.open("ab") as out:
                http_get(
                    file.url,
                    out,
                    resume_size=out.tell(),
                    headers=headers,
                    expected_size=file.size,
                    displayed_filename=target.name,
                )
            if file.sha256 in (None, sha256_of(partial)):
                partial.rename(target)
                return target
            partial.unlink()
            refused: LDISError = TryAgainError(
                f"{file.name}: its SHA-256 is not {file.sha256}; what came was removed, try again"
            )
    except Exception as error:
        refused = refusal(error, file.name, target)
    raise refused


def check_space(files: Iterable[RemoteFile], more: int, folder: Path) -> None:
    """Raises :class:`TryAgainError` where files to come, and ``more`` bytes that are made of them, do not fit."""
    need = more + sum(file.missing for file in files)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise TryAgainError(
            f"{folder}: {need / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free; free some space, or name "
            "another folder with LDIS_JAX_CACHE"
        )


def refusal(error: Exception, where: str, folder: Path | None = None) -> LDISError:
    """Explains an error of a request, and what to do.

    Args:
        error: of huggingface_hub, or of what it is made of.
        where: the address.
        folder: where its files were to go.
    """
    from huggingface_hub import errors

    line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    answer = error.response if isinstance(error, errors.HfHubHTTPError) else None
    status = 0 if answer is None else answer.status_code
    to = f" to {folder}" if folder is not None else ""
    if isinstance(error, LDISError):
        return error
    match error:  # some are kinds of others
        case errors.GatedRepoError():
            return LDISError(f"{where}: access refused; accept its terms on the hub, then log in: hf auth login")
        case errors.RevisionNotFoundError():
            return LDISError(f"{where}: the repository has no such revision; give a branch, tag or commit of it")
        case errors.RepositoryNotFoundError():
            return LDISError(
                f"{where}: no such folder and no such repository on the hub; a private one needs: hf auth login"
            )
        case errors.HFValidationError():
            return LDISError(f"{where}: no address: owner/name is the form of an id of the hub")
        case errors.LocalEntryNotFoundError():
            return TryAgainError(
                f"{where}: no such folder, not in the hub's local cache, and the hub is out of reach; "
                "fetch it online once"
            )
    if 400 <= status < 500 and status not in (408, 429):
        return LDISError(f"{where}: the server does not give it ({line}); check the address")
    return TryAgainError(f"{where}: cannot be downloaded{to} ({line}); try again, what came is kept")


def sha256_of(path: Path) -> str:
    """64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_online() -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("--offline or HF_HUB_OFFLINE forbids it")


def _web_place(url: str, version: str) -> str:
    name = re.sub(r"[^\w.-]", "_", url.partition("?")[0].rstrip("/").rpartition("/")[2])[-100:]
    return os.path.join("web", hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:16], name or "file")


def _partial(file: RemoteFile) -> Path:
    """The file's partial download, named by its final content, so that parts of two versions never mix."""
    path = parts_folder() / file.place
    version = hashlib.sha256(f"{file.url} {file.size} {file.sha256}".encode()).hexdigest()[:8]
    return path.with_name(f".{path.name[:100]}.{version}.incomplete")
