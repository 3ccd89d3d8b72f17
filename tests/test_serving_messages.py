"""What a service has to say, and what becomes of it where nobody listens."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.events import Event, Note
from headstart.serving.telling import KEPT, anybody_stuck, telling

from . import small_bundle
from .conftest import interruptible
from .serving_client import Service, photo, until

PIPE = 65536  # bytes that a pipe holds, where nothing else was said


def loud_tiff() -> bytes:
    """A photo over which the library that reads it writes many lines to standard error, if it is let."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (400, 100)).astype(bool)).save(
        file, "TIFF", compression="group4"
    )
    content = bytearray(file.getvalue())
    for place in range(20, 4800, 12):
        content[place] ^= 0x55
    return bytes(content)


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Service]]:
    """A service in a process of its own, of whose messages only the first is read."""
    command = [sys.executable, "-m", "headstart", "serve", str(small_bundle.make(tmp_path / "b")), "--port", "0"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as anybody starts it
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=buffered, preexec_fn=interruptible
    ) as started:
        try:
            assert started.stderr is not None
            yield started, Service(started.stderr.readline().partition(" at ")[2].partition(";")[0])
        finally:
            started.kill()


def test_a_service_goes_on_and_ends_in_time_where_nobody_reads_its_messages(
    unread: tuple[subprocess.Popen[str], Service],
) -> None:
    started, there = unread
    path = "x" * 76
    request, bunch, line = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 100, len(path) + 30
    with socket.create_connection(there.place, timeout=10) as connection:
        for _ in range(3 * PIPE // line // bunch):  # three times what the pipe holds
            connection.sendall(request * bunch)
            answered = 0
            while answered < bunch:
                answered += connection.recv(PIPE).count(b"HTTP/1.1 404")
    for _ in range(2 * (os.cpu_count() or 1)):  # more than there are threads: each would be stuck
        assert there.ask("POST", "/predict", loud_tiff()).status in (200, 422)
    assert there.ask("POST", "/predict", photo()).json()[0]["label"] == "red"
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) == 0


def test_a_service_goes_on_and_ends_in_time_on_a_terminal_that_is_paused(tmp_path: Path) -> None:
    master, slave = os.openpty()
    command = [sys.executable, "-m", "headstart", "serve", str(small_bundle.make(tmp_path / "b")), "--port", "0"]
    with subprocess.Popen(command, stderr=slave, preexec_fn=interruptible) as started:
        try:
            os.close(slave)
            shown = b""
            while b"stops it" not in shown:
                shown += os.read(master, 1000)
            address = re.search(rb"http://[\d.:]+", shown)
            assert address, shown
            there = Service(address.group().decode())
            for _ in range(3 * 4096 // 60):  # of what a terminal holds
                assert there.ask("GET", f"/{'x' * 60}").status == 404
            started.send_signal(signal.SIGTERM)
            assert started.wait(20) == 0
        finally:
            started.kill()
            os.close(master)


def test_a_slow_listener_is_told_how_much_it_missed_and_holds_nobody_up() -> None:
    go, heard = threading.Event(), list[str]()

    def listener(event: Event) -> None:
        assert go.wait(20)
        assert isinstance(event, Note)
        heard.append(event.text)

    with telling(listener) as tell:
        assert tell is not None
        tell(Note(text="first"))
        until(lambda: threading.active_count() > 1)
        for number in range(KEPT + 100):
            tell(Note(text=str(number)))
        go.set()
    missed = next(text for text in heard if "left out" in text)
    count = int(missed.split()[0])
    assert count in (100, 101)  # whether the first was already on its way
    assert heard[-1] == str(KEPT + 99)
    assert len(heard) == KEPT + 102 - count
    assert not anybody_stuck()


def test_what_a_listener_raises_comes_to_whoever_tells() -> None:
    def listener(event: Event) -> None:
        raise ValueError("enough")

    def tell() -> None:
        with telling(listener) as told:
            assert told is not None
            told(Note(text="first"))

    with pytest.raises(ValueError, match="enough"):
        tell()
