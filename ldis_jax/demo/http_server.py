"""Uvicorn, with an end to connections on which nothing is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10  # from a connection's start, or its last answer, to the end of a request's head
MOST_CONNECTIONS = 256


class _Protocol(H11Protocol):
    """h11, because it bounds the size of a request's head; this bounds its time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        asyncio.get_running_loop().call_later(HEAD_SECONDS, self._end_if_waiting, self.cycle)

    def _end_if_waiting(self, last: Any) -> None:
        """Ends the connection where no request has come after the last."""
        if self.cycle is last and (last is None or last.response_complete) and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(f"serving at http://{f'[{host}]' if ':' in host else host}:{port}/; Ctrl-C ends it", flush=True)


def run(app: Any, host: str, port: int) -> None:
    """Serves an ASGI app until it is interrupted."""
    config = uvicorn.Config(
        app, host, port, http=_Protocol, ws="none", log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=2,
    )  # fmt: skip
    _Server(config).run()
