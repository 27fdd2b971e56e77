"""The door of the web page: what a request must be before anything else sees it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import ipaddress
import json
import re
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import IO, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from ldis_jax.demo.requests import SESSION_NAME, Requests, session_name
from ldis_jax.demo.sessions import Sessions

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

_API = "/gradio_api"
_UPLOAD, _JOIN = f"{_API}/upload", f"{_API}/queue/join"
# All that the page sends and reads.
_POSTS = (_UPLOAD, _JOIN, f"{_API}/cancel")
_GETS = ("file=", "heartbeat/", "queue/data", "upload_progress", "startup-events", "info", "theme.css", "app_id")
BODY_BYTES, BODY_SECONDS = 64 * 1024, 30  # of a request that is no upload
UPLOAD_SECONDS = 300
_FORM_BYTES = 16 * 1024  # of an upload beside its file
_PIECE = 256 * 1024
_DRAINED_BYTES, _DRAIN_SECONDS = 2**28, 10  # of what is refused; who sends more sees the connection end
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"SAMEORIGIN"))
_SESSION = re.compile(r"[\w-]{22}")
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class _Refusal(NamedTuple):
    status: int
    line: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guard:
    """Lets through what this page's own scripts send from the address that is served; refuses the rest in a line."""

    def __init__(
        self, app: App, requests: Requests, sessions: Sessions, upload_bytes: int, names: Names, login: str = ""
    ):
        """In front of an app.

        Args:
            app: Gradio's.
            requests: what its functions take.
            sessions: whose files are whose.
            upload_bytes: of one file.
            names: that a browser may have asked for.
            login: "user:password"; empty where everyone may come in.
        """
        self._app, self._requests, self._sessions, self._names = app, requests, sessions, names
        self._upload_bytes = upload_bytes + _FORM_BYTES
        self._login = b"Basic " + base64.b64encode(login.encode()) if login else b""
        self._cookie = f"ldis-{secrets.token_hex(4)}"  # browsers share cookies between ports

    async def __call__(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Serves a request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = _Headers(scope["headers"])
        session = self._session(headers)
        send = self._marked(send, session, new=headers.cookie(self._cookie) != session)
        incoming = _Incoming(receive)
        refusal = await self._at_the_door(scope, headers, session)
        with tempfile.SpooledTemporaryFile(_PIECE) as body:
            refusal = refusal or await self._body(scope, headers, session, incoming, body)
            if refusal is None:
                return await self._app(scope, _replayed(body, receive), self._overheard(scope, session, send))
        await incoming.drain()
        await _answer(send, refusal, as_json=scope["path"].rstrip("/") == _JOIN)

    async def _at_the_door(self, scope: Mapping[str, Any], headers: _Headers, session: str) -> _Refusal | None:
        """The answer that needs no body, if any."""
        hosts = headers.all(b"host")
        if len(hosts) != 1 or not self._names.include(_name(hosts[0])):
            return _Refusal(421, "This name is not served here; see --name of the server")
        if any(_netloc(origin) != hosts[0].lower() for origin in headers.all(b"origin")):
            return _Refusal(403, "Another page may not use this one")
        if self._login and not any(hmac.compare_digest(self._login, given) for given in headers.raw(b"authorization")):
            await asyncio.sleep(1)  # a guess a second
            return _Refusal(401, "User and password", ((b"www-authenticate", b'Basic realm="LDIS", charset="UTF-8"'),))
        path, method = scope["path"], scope["method"]
        has = path.rstrip("/") in _POSTS if method == "POST" else method in ("GET", "HEAD")
        if method != "POST" and path.startswith(_API):
            has = path.removeprefix(f"{_API}/").startswith(_GETS)
        if not has:
            return _Refusal(404, "The page does not have this")
        for name in _names_in(path, scope["query_string"]):
            if not self._is_name(session, name):
                return _Refusal(403, "This is another browser's session; load the page again")
        _, is_file, file = path.partition(f"{_API}/file")
        if is_file and not self._sessions.may_read(session, file[1:]):
            return _Refusal(403, "This browser has no such file; files are kept for an hour")
        return None

    async def _body(
        self, scope: Mapping[str, Any], headers: _Headers, session: str, incoming: _Incoming, body: IO[bytes]
    ) -> _Refusal | None:
        """Reads the body into a file, and looks at it."""
        path = scope["path"].rstrip("/")
        is_upload = path == _UPLOAD
        most, seconds = (self._upload_bytes, UPLOAD_SECONDS) if is_upload else (BODY_BYTES, BODY_SECONDS)
        said = (headers.all(b"content-length") or ["" if is_upload else "0"])[0]
        if not said.isdecimal():
            return _Refusal(411, "The upload does not say how long it is")
        too_large = _Refusal(413, f"The request is larger than {most} bytes, the most that this server takes at once")
        if len(said) > 20 or int(said) > most:
            return too_large
        if is_upload and (line := self._sessions.upload(session, int(said))):
            return _Refusal(429, line)
        refusal: _Refusal | None = None
        try:
            async with asyncio.timeout(seconds):
                if not await incoming.read(body, most):
                    refusal = too_large
        except TimeoutError:
            refusal = _Refusal(408, f"The request did not arrive within {seconds} seconds")
        except ConnectionError:
            refusal = _Refusal(400, "The request ended early")
        if refusal is None and scope["method"] == "POST" and not is_upload:
            refusal = self._content(path, session, body)
        if refusal and is_upload:
            self._sessions.take_back(session, int(said))
        return refusal

    def _content(self, path: str, session: str, body: IO[bytes]) -> _Refusal | None:
        """An error in the JSON of a request."""
        body.seek(0)
        content = body.read()
        if not self._is_name(session, session_name(content)):
            return _Refusal(403, "This is no session of this browser; load the page again")
        if path != _JOIN:
            return None
        line = self._requests.error(content, lambda file: self._sessions.may_read(session, file))
        return _Refusal(400, line) if line else None

    def _session(self, headers: _Headers) -> str:
        """The browser's cookie, or a new one."""
        given = headers.cookie(self._cookie)
        return given if _SESSION.fullmatch(given) else secrets.token_urlsafe(16)

    def _is_name(self, session: str, name: Any) -> bool:
        return (
            isinstance(name, str) and bool(re.fullmatch(SESSION_NAME, name)) and self._sessions.has_name(session, name)
        )

    def _marked(self, send: _Send, session: str, new: bool) -> _Send:
        """``send`` with the headers of every answer."""
        cookie = f"{self._cookie}={session}; Path=/; HttpOnly; SameSite=Lax"

        async def marked(message: _Message) -> None:
            if message["type"] == "http.response.start":
                more = (*_HEADERS, (b"set-cookie", cookie.encode())) if new else _HEADERS
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        return marked

    def _overheard(self, scope: Mapping[str, Any], session: str, send: _Send) -> _Send:
        """``send``, listened to where it tells a browser of files."""
        path = scope["path"].rstrip("/")
        if path not in (_UPLOAD, f"{_API}/queue/data"):
            return send

        async def overheard(message: _Message) -> None:
            if message["type"] == "http.response.body":
                known = self._sessions.tell(session, message.get("body", b""))
                if known and path == _UPLOAD:  # it takes no more of the disk
                    self._sessions.take_back(session, int(_Headers(scope["headers"]).all(b"content-length")[0]))
            await send(message)

        return overheard


class Names:
    """The names under which a server may be asked for.

    Any other may be a foreign page's own, turned to this address after the page was loaded. Numbers cannot be turned.
    """

    def __init__(self, host: str, is_local: bool, more: Collection[str] = ()):
        """Takes the address to serve at, and the names of proxies before it."""
        self._numbers = not is_local
        own = () if is_local else (socket.gethostname(),)
        self._names = _LOCAL | {name.lower() for name in (host, *own, *more)}

    def include(self, name: str) -> bool:
        """True if a browser may have asked for this."""
        if name in self._names:
            return True
        try:
            return self._numbers and bool(ipaddress.ip_address(name))
        except ValueError:
            return False


class _Headers:
    def __init__(self, pairs: Collection[tuple[bytes, bytes]]):
        self._pairs = pairs

    def raw(self, name: bytes) -> list[bytes]:
        return [value for key, value in self._pairs if key.lower() == name]

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1").strip() for value in self.raw(name)]

    def cookie(self, name: str) -> str:
        """Its value, "" where there is none."""
        pairs = (part.strip().partition("=") for line in self.all(b"cookie") for part in line.split(";"))
        return next((value for key, _, value in pairs if key == name), "")


def _name(host: str) -> str:
    """The name in "name:port"."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _names_in(path: str, query: bytes) -> list[str]:
    """The names of pages in an address."""
    _, is_heartbeat, name = path.partition(f"{_API}/heartbeat/")
    return [*([name] if is_heartbeat else []), *parse_qs(query.decode("latin-1")).get("session_hash", [])]


class _Incoming:
    """The body of a request as it arrives."""

    def __init__(self, receive: _Receive):
        self._receive, self._whole = receive, False

    async def read(self, body: IO[bytes], most: int) -> bool:
        """Reads it into a file; False where it is more than so many bytes."""
        while not self._whole:
            body.write(await self._next())
            if body.tell() > most:
                return False
        return True

    async def drain(self) -> None:
        """Reads what is left of a refused request, so that its sender reads the answer."""
        left = _DRAINED_BYTES
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left > 0 and not self._whole:
                    left -= len(await self._next())

    async def _next(self) -> bytes:
        message = await self._receive()
        self._whole = not message.get("more_body")
        if message["type"] == "http.disconnect":
            raise ConnectionError
        return message.get("body", b"")


def _replayed(body: IO[bytes], receive: _Receive) -> _Receive:
    """A body that has been read, piece by piece once more; then what comes after it."""
    size, ended = body.tell(), False
    body.seek(0)

    async def replay() -> _Message:
        nonlocal ended
        if ended:
            return await receive()
        piece = body.read(_PIECE)
        ended = body.tell() >= size
        return {"type": "http.request", "body": piece, "more_body": not ended}

    return replay


async def _answer(send: _Send, refusal: _Refusal, as_json: bool) -> None:
    text = json.dumps({"detail": refusal.line}) if as_json else refusal.line
    kind = b"application/json" if as_json else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"connection", b"close"), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
