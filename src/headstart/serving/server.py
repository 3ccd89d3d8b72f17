"""Keep slow clients to the time, and stop without losing a request that was accepted."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from headstart.serving.gate import Gate, Phase
from headstart.serving.limits import Limits
from headstart.serving.refusals import JSON
from headstart.serving.security import ANSWER

_STEP = 0.02  # seconds between two looks at what is still open
_GRACE = 5.0  # seconds more than a request may take, before a stopping service cuts it off


class Settings(uvicorn.Config):
    """Uvicorn's own, and our limits."""

    limits: Limits


class Server(uvicorn.Server):
    """Uvicorn's, which waits at its end for requests that are under way on connections that are open."""

    def __init__(self, app: Gate, *, limits: Limits, phase: Phase) -> None:
        settings = Settings(
            app,
            http=_Timed,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=round(limits.idle_seconds) or 1,
            timeout_graceful_shutdown=round(limits.seconds + _GRACE),
            h11_max_incomplete_event_size=limits.head,
        )
        settings.limits = limits
        super().__init__(settings)
        self._linger, self._phase = limits.linger_seconds, phase

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server_state.connections)

    def stop(self) -> None:
        """Begin to stop; asked a second time, cut off what is under way."""
        self.force_exit = self.should_exit
        self.should_exit = self._phase.stopping = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: who runs the server decides what a signal means."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, answer what comes on open connections for a moment, then what is under way; then end.

        A client may be sending its next request on a connection just when that is closed, and would never know whether
        it was heard. So each is told with its next answer that the connection ends.
        """
        self._phase.stopping = True
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._linger
        while self.server_state.connections and loop.time() < until and not self.force_exit:
            await asyncio.sleep(_STEP)
        await super().shutdown(sockets)


class _Timed(H11Protocol):
    """A connection on which a request's first lines have to arrive in time; refusals are ours in form."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, "too many connections are open", "try again in 1 s", "retry-after: 1\r\n")
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._busy():
            self._forget_deadline()
        elif self._deadline is None:
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._busy():  # the next request came with the last one
            self._forget_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        # A client that never reads would keep its connection for as long as it likes.
        self.loop.call_later(self._limits.seconds, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        problem = sys.exception()
        status = getattr(problem, "error_status_hint", 400)
        if status == 431:
            self._refuse(
                431, f"the request's first lines have more than {self._limits.head} bytes", "send fewer headers"
            )
        else:
            self._refuse(400, "this is no HTTP request", "send it by a client library")

    @property
    def _limits(self) -> Limits:
        assert isinstance(self.config, Settings)
        return self.config.limits

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        if not self.transport.is_closing():
            self._deadline = self.loop.call_later(self._limits.head_seconds, self._too_slow)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self._busy() and not self.transport.is_closing():
            self._refuse(408, f"no request arrived within {self._limits.head_seconds:g} s", "send it at once")

    def _refuse(self, status: int, error: str, hint: str, more: str = "") -> None:
        """Answer without the application, and close."""
        if self._busy():  # the rest of a body makes no sense: whoever waits for it learns that the client is lost
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        body = json.dumps({"error": error, "hint": hint}).encode()
        fixed = "".join(f"{name}: {value}\r\n" for name, value in ANSWER.items())
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {JSON}\r\ncontent-length: {len(body)}\r\n"
            f"cache-control: no-store\r\nconnection: close\r\n{more}{fixed}\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
