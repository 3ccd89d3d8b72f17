"""Start the service, keep it running, and end it when it is told to: the verb `serve`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import threading
from collections.abc import Coroutine, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import BadServer
from headstart.events import Event, Note
from headstart.machine import cores, return_freed_memory
from headstart.serving.limits import Limits
from headstart.serving.swapping import Shelf

if TYPE_CHECKING:
    from headstart.serving.security import Access
    from headstart.serving.server import Server

_NEEDED = {"fastapi": "FastAPI", "uvicorn": "Uvicorn", "python_multipart": "python-multipart"} | {
    "prometheus_client": "prometheus-client"
}
_BACKLOG = 2048  # connections that wait to be accepted
_TALKATIVE = ("uvicorn.error", "python_multipart.multipart", "asyncio")  # what they have to say, we say ourselves


def serve(
    path: Path, *, host: str = "127.0.0.1", port: int = 8000, workers: int | None = None, token: str | None = None
) -> Generator[Event, None, None]:
    """Answer over HTTP until SIGTERM, SIGINT or the end of the generator. Yields what happens, a line a request.

    SIGHUP, or another bundle in the folder, puts a new model in the place of the old one. Signals are only heard where
    this runs in the main thread.

    Raises:
        BadRun, BadBundle, BadExport: what is to be served cannot be.
        BadServer: a library is missing, or the address or the token cannot be used.
    """
    _check_installed()
    from headstart.serving.bundles import bundle_of
    from headstart.serving.listening import listening
    from headstart.serving.security import Access

    if workers is not None and workers < 1:
        raise BadServer(f"{workers} workers cannot answer", fix="give 1 or more, or leave --workers out")
    access = Access.of(host, token, os.environ)
    limits = Limits.of(os.environ)
    with closing(listening(host, port)) as bound:  # before anything that takes long: a port in use is known at once
        bundle = yield from bundle_of(path)
        return_freed_memory()  # after a run was exported, which keeps it
        shelf = Shelf(bundle, most_pixels=limits.pixels, batch=limits.batch)
        yield from serving(shelf, bound, access=access, limits=limits, workers=workers)


def serving(
    shelf: Shelf, bound: socket.socket, *, access: Access, limits: Limits, workers: int | None = None
) -> Generator[Event, None, None]:
    """Answer with this shelf's model on this socket, until told to stop."""
    from headstart.serving.app import application
    from headstart.serving.batching import Crew
    from headstart.serving.gate import Phase
    from headstart.serving.lines import Lines
    from headstart.serving.listening import address_of
    from headstart.serving.metrics import Figures
    from headstart.serving.server import Server
    from headstart.serving.watching import watch

    figures, phase = Figures(), Phase()
    with closing(asyncio.new_event_loop()) as loop, _quiet(), contextlib.ExitStack() as after:
        lines = Lines(loop)
        crew = Crew(
            workers=workers or cores(),
            queue=limits.queue,
            batch=limits.batch,
            seconds=limits.seconds,
            figures=figures,
            tell=lines.tell,
        )
        app = application(
            shelf=shelf, crew=crew, access=access, limits=limits, figures=figures, phase=phase, tell=lines.tell
        )
        server = Server(app, limits=limits, phase=phase)
        figures.watch(queue=crew.waiting, connections=lambda: server.connections, model=lambda: shelf.current.number)
        after.callback(crew.close)
        swap = asyncio.Event()
        after.enter_context(_signals(loop, server, swap))
        running = loop.create_task(_run(server, bound, watch(shelf, swap, figures, lines.tell)))
        running.add_done_callback(lambda _: lines.end())
        after.callback(_cut_off, loop, server, running)
        bound.listen(_BACKLOG)  # before it is said: from now on a client waits instead of being turned away
        yield Note(text=_greeting(shelf, address_of(bound), access))
        while (told := loop.run_until_complete(lines.next())) is not None:
            for line in told:
                yield Note(text=line)
        running.result()
        cut = (
            "; what was under way was cut off" if server.force_exit else "; every request that was accepted is answered"
        )
        yield Note(text=f"stopped{cut}")


async def _run(server: Server, bound: socket.socket, swapping: Coroutine[None, None, None]) -> None:
    beside = asyncio.ensure_future(swapping)
    try:
        await server.serve(sockets=[bound])
    finally:
        beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beside


@contextmanager
def _signals(loop: asyncio.AbstractEventLoop, server: Server, swap: asyncio.Event) -> Iterator[None]:
    """While open, signals end the service or make it look for a new bundle."""
    on_terminal = _has_terminal()

    def hung_up() -> None:
        # Also what a terminal says when it is closed: nobody wants a service that goes on without one unseen.
        if on_terminal and not _has_terminal():
            server.stop()
        else:
            swap.set()

    meanings = {"SIGTERM": server.stop, "SIGINT": server.stop, "SIGHUP": hung_up}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name, meaning in meanings.items():
        if number := getattr(signal, name, None):  # not every system has each
            before[number] = signal.signal(number, lambda *_, meaning=meaning: loop.call_soon_threadsafe(meaning))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_terminal() -> bool:
    """Whether the process belongs to a terminal that is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


def _cut_off(loop: asyncio.AbstractEventLoop, server: Server, running: asyncio.Task[None]) -> None:
    """End a service that is no longer looked at: whoever drove the generator has let it go."""
    if running.done():
        return
    server.stop()
    server.stop()
    loop.run_until_complete(asyncio.wait({running}))


@contextmanager
def _quiet() -> Iterator[None]:
    """While open, libraries do not write to the terminal what the service tells in its own words."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _greeting(shelf: Shelf, address: str, access: Access) -> str:
    manifest = shelf.current.manifest
    name, count = manifest.backbone.get("name", "a model"), len(manifest.classes)
    locked = "; requests need the token" if access.token is not None else ""
    return f"serving {name} with {count} classes at {address}{locked}; Ctrl-C stops it"


def _check_installed() -> None:
    for module, name in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise BadServer(f"{name}, which the service needs, is not installed", fix='pip install "headstart[serve]"')
