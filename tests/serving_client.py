"""Talk to a service as a client does, and hold every answer against what the service's description promises."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from .serving_model import served

ALWAYS = {404, 405, 431}  # say that a path, a method or the form of a request is none of those that are described


def photo(colour: tuple[int, int, int] = (250, 10, 10), size: tuple[int, int] = (80, 60), kind: str = "PNG") -> bytes:
    """A file of one colour."""
    written = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), colour, np.uint8)).save(written, kind)
    return written.getvalue()


def form(*files: tuple[str | None, bytes], field: str = "file") -> tuple[bytes, str]:
    """The body of a form and its content type."""
    parts = []
    for name, content in files:
        named = f'; filename="{name}"' if name is not None else ""
        parts.append(f'--edge\r\nContent-Disposition: form-data; name="{field}"{named}\r\n\r\n'.encode() + content)
    return b"\r\n".join([*parts, b"--edge--\r\n"]), "multipart/form-data; boundary=edge"


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Service:
    """A service that runs, and what it has told so far."""

    address: str
    told: list[str] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.address)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def ask(
        self, method: str, path: str, body: bytes = b"", kind: str | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """Ask once, on a connection of its own."""
        connection = http.client.HTTPConnection(*self.place, timeout=30)
        sent = dict(headers or {}) | ({"Content-Type": kind} if kind else {})
        try:
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            lower = {name.lower(): value for name, value in answer.getheaders()}
            reply = Reply(answer.status, lower, answer.read())
        finally:
            connection.close()
        self._check(method, path.partition("?")[0], reply)
        return reply

    def predict(self, *files: tuple[str | None, bytes], query: str = "") -> Reply:
        """Ask for answers to these files, in a form."""
        body, kind = form(*files)
        return self.ask("POST", f"/predict{query}", body, kind)

    def figure(self, name: str) -> float:
        """The value in /metrics, summed over its labels."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def raw(self, sent: bytes, *, seconds: float = 10) -> bytes:
        """All that comes back for these bytes until the service closes the connection."""
        with socket.create_connection(self.place, timeout=seconds) as connection:
            connection.sendall(sent)
            received = b""
            while piece := connection.recv(65536):
                received += piece
            return received

    def _check(self, method: str, path: str, reply: Reply) -> None:
        """The answer is one that the description promises, and gives nothing away."""
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert "server" not in reply.headers
        for secret in (b"Traceback", b"/secret", b"site-packages", str(Path(__file__).parents[1]).encode()):
            assert secret not in reply.body
        if reply.status >= 400 and method != "HEAD":
            assert {"error", "hint"} <= set(reply.json())
        told = self.description.get("paths", {}).get(path, {}).get(method.lower())
        if told is not None and reply.status not in ALWAYS:
            assert str(reply.status) in told["responses"], (path, reply.status)
            assert reply.headers["content-type"].partition(";")[0] in told["responses"][str(reply.status)]["content"]


@contextmanager
def running(bundle: Path, **options: Any) -> Iterator[Service]:
    """Serve this bundle from a thread, while open."""
    there, over = threading.Event(), threading.Event()
    service = Service("")

    def work() -> None:
        lines = served(bundle, **options)
        for line in lines:
            service.told.append(line)
            if not service.address:
                service.address = line.partition(" at ")[2].partition(";")[0]
                there.set()
            if over.is_set():
                break
        lines.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=work)
    thread.start()
    assert there.wait(60)
    try:
        token = options.get("token")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        service.description = service.ask("GET", "/openapi.json", headers=headers).json()
        yield service
    finally:
        over.set()
        service.ask("GET", "/health")  # its line wakes the thread, which sees that it is over
        thread.join(60)
        assert not thread.is_alive()


def until(true: Any, seconds: float = 20) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
