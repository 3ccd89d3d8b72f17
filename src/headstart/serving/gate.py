"""Stand before every route: let in who may, count, keep to the time, and answer even where the inside fails."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from headstart.serving.limits import Limits
from headstart.serving.metrics import Figures
from headstart.serving.refusals import JSON, Refusal
from headstart.serving.security import ANSWER, PAGE, Access

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Inside = Callable[[Message, Receive, Send], Awaitable[None]]
Tell = Callable[[str], None]

METHODS = "GET, HEAD, POST"
_SWALLOWED = 64_000_000  # bytes of a refused body that are still taken, so that the client comes to read the refusal
_SWALLOWING = 2.0  # seconds of the same
_OTHER = "other"  # route of all paths that there are not: strangers must not make up labels


@dataclass
class Phase:
    """Where the service is in its life."""

    stopping: bool = False


class Gate:
    """An ASGI application around another."""

    def __init__(
        self,
        inside: Inside,
        *,
        access: Access,
        limits: Limits,
        figures: Figures,
        phase: Phase,
        routes: Iterable[str],
        opened: Iterable[str],
        pages: Iterable[str],
        tell: Tell,
    ) -> None:
        """Stand before `inside`.

        Args:
            inside: the application.
            access: who is let in.
            limits: for how long.
            figures: are told of each request.
            phase: whether the service is stopping.
            routes: all paths that there are.
            opened: those that need no token.
            pages: those that a browser shows.
            tell: is told a line for each request, and what fails.
        """
        self._inside, self._access, self._limits = inside, access, limits
        self._figures, self._phase, self._tell = figures, phase, tell
        self._routes, self._opened, self._pages = frozenset(routes), frozenset(opened), frozenset(pages)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the service speaks HTTP, not {scope['type']}")
        began = time.perf_counter()
        route = scope["path"] if scope["path"] in self._routes else _OTHER
        talk = _Talk(receive, send, dict(scope["headers"]), self._headers(scope), self._phase)
        try:
            await self._answer(scope, talk)
        finally:
            took = time.perf_counter() - began
            if talk.status:
                self._figures.answered(route, talk.status, took)
                self._tell(_line(scope, route, talk.status, took))

    async def _answer(self, scope: Message, talk: _Talk) -> None:
        try:
            opened = scope["path"] in self._opened
            self._access.check(scope["method"], scope["path"], talk.headers, opened=opened)
            talk.check()
            if scope["method"] == "OPTIONS" and self._preflight(talk):
                await talk.answer(204, {"allow": METHODS}, b"")
                return
            if scope["method"] == "HEAD":  # as GET; the server leaves the body out
                scope = {**scope, "method": "GET"}
            await self._inside(scope, talk.receive, talk.send)
        except Refusal as refusal:
            await talk.refuse(refusal)
        except asyncio.CancelledError:
            await talk.refuse(Refusal(503, "the service stopped before the answer was there", "ask again"))
        except Exception:  # noqa: BLE001  whoever asks learns that it failed; whoever runs the service, why
            self._tell(f"failed unexpectedly:\n{traceback.format_exc()}")
            await talk.refuse(Refusal(500, "the service failed unexpectedly", "look at what it printed, and report it"))

    def _headers(self, scope: Message) -> dict[str, str]:
        page = scope["path"] in self._pages
        headers = dict(PAGE if page else ANSWER)
        headers["cache-control"] = "no-cache" if page else "no-store"
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1").lower()
        if self._access.origins:
            headers["vary"] = "origin"
        if origin in self._access.origins:
            headers["access-control-allow-origin"] = origin
            headers["access-control-allow-methods"] = METHODS
            headers["access-control-allow-headers"] = "authorization, content-type"
        return headers

    def _preflight(self, talk: _Talk) -> bool:
        origin = talk.headers.get(b"origin", b"").decode("latin-1").lower()
        return origin in self._access.origins and b"access-control-request-method" in talk.headers


class _Talk:
    """One request and its answer: knows what of both has passed."""

    def __init__(
        self, receive: Receive, send: Send, headers: dict[bytes, bytes], added: dict[str, str], phase: Phase
    ) -> None:
        self.headers = headers
        self.status = 0
        self._receive, self._send, self._added, self._phase = receive, send, added, phase
        self._whole = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"
        self._over = False

    def check(self) -> None:
        """Refuse a body with two lengths.

        Raises:
            Refusal: a proxy in front of the service could believe the other, and take a part of it for a request.
        """
        if b"transfer-encoding" in self.headers and b"content-length" in self.headers:
            raise Refusal(400, "the request's body has two lengths", "send Content-Length or Transfer-Encoding")

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._whole = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ())]
            there = {name.lower() for name, _ in headers}
            headers += [
                (name.encode(), value.encode()) for name, value in self._added.items() if name.encode() not in there
            ]
            if self._phase.stopping or not self._whole:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif not message.get("more_body", False):
            self._over = True
            if not self._whole:
                # A connection that is closed while the client still sends takes the answer with it. So the answer goes
                # out, what is still sent is passed over for a while, and then the connection is closed.
                await self._send({**message, "more_body": True})
                await self._swallow()
                message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """The whole answer; nothing where one has begun already."""
        if self.status:
            return
        named = {**headers, "content-length": str(len(body))} if status != 204 else headers
        pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in named.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})

    async def refuse(self, refusal: Refusal) -> None:
        """The refusal as JSON."""
        await self.answer(refusal.status, {"content-type": JSON, **refusal.headers}, refusal.body())

    async def _swallow(self) -> None:
        taken = 0
        if b"expect" in self.headers or int(self.headers.get(b"content-length", b"0") or 0) > _SWALLOWED:
            return
        try:
            async with asyncio.timeout(_SWALLOWING):
                while taken < _SWALLOWED:
                    message = await self._receive()
                    taken += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


def _line(scope: Message, route: str, status: int, took: float) -> str:
    """What is told of a request: no query and no name of a photo."""
    path = route if route != _OTHER else ascii(scope["path"][:80])[1:-1]
    client = scope["client"][0] if scope.get("client") else "-"
    method = ascii(scope["method"][:10])[1:-1]
    return f"{time.strftime('%H:%M:%S')} {client} {method} {path} {status} {1000 * took:.0f} ms"
