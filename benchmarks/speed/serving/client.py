"""Ask a service as many clients do, from a process of its own; what comes out is printed as JSON.

python client.py ADDRESS FOLDER --seconds 15 --clients 64            each asks again as soon as it has its answer
python client.py ADDRESS FOLDER --seconds 15 --rate 50               so many arrive in a second, whatever happens
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Seen:
    """What became of the requests."""

    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    lost: int = 0  # connections that ended before the answer


class Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiting: asyncio.Future[str] | None = None
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[str]:
        assert self.transport is not None
        self.waiting = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self.waiting.set_exception(ConnectionError())
        else:
            self.transport.write(request)
        return self.waiting

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or self.waiting is None:
            return
        head = bytes(self.received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self.received) >= end + 4 + length:
            status = head[9:12].decode()
            self.received.clear()
            self.waiting.set_result(status)

    def connection_lost(self, problem: Exception | None) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(ConnectionError())


def requests(address: str, folder: Path) -> Iterator[bytes]:
    """Each photo as a form, in turn, for ever."""
    host = urlsplit(address).netloc
    made = []
    for path in sorted(folder.rglob("*.jpg")):
        start = (
            f'--limit\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = start.encode() + path.read_bytes() + b"\r\n--limit--\r\n"
        head = (
            f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=limit\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    random.Random(0).shuffle(made)
    return itertools.cycle(made)


async def connected(address: str) -> Client:
    parts = urlsplit(address)
    _, client = await asyncio.get_running_loop().create_connection(Client, parts.hostname, parts.port)
    return client


async def one(client: Client, request: bytes, since: float, seen: Seen) -> Client | None:
    """Ask once; gives the connection back while it is good."""
    try:
        status = await client.ask(request)
    except ConnectionError:
        seen.lost += 1
        return None
    seen.latencies.append(time.perf_counter() - since)
    seen.statuses[status] = seen.statuses.get(status, 0) + 1
    return client


async def closed(address: str, asked: Iterator[bytes], clients: int, seconds: float, most: int) -> Seen:
    """Clients that each wait for their answer before they ask again."""
    seen, until = Seen(), time.perf_counter() + seconds

    async def work() -> None:
        client: Client | None = await connected(address)
        while time.perf_counter() < until and len(seen.latencies) < most:
            client = await one(client or await connected(address), next(asked), time.perf_counter(), seen)

    await asyncio.gather(*(work() for _ in range(clients)))
    return seen


async def arriving(address: str, asked: Iterator[bytes], rate: float, seconds: float) -> Seen:
    """Requests at random times, as from a crowd: latency counts from when each should have begun."""
    seen, rng, idle, under_way = Seen(), random.Random(0), [], set()

    async def work(request: bytes, since: float) -> None:
        client = await one(idle.pop() if idle else await connected(address), request, since, seen)
        if client is not None:
            idle.append(client)

    since = time.perf_counter()
    until = since + seconds
    while (since := since + rng.expovariate(rate)) < until:
        await asyncio.sleep(since - time.perf_counter())
        task = asyncio.ensure_future(work(next(asked), since))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--most", type=int, default=10**9)
    options = parser.parse_args()
    asked = requests(options.address, options.folder)
    began = time.perf_counter()
    if options.rate:
        seen = asyncio.run(arriving(options.address, asked, options.rate, options.seconds))
    else:
        seen = asyncio.run(closed(options.address, asked, options.clients, options.seconds, options.most))
    took = time.perf_counter() - began
    print(json.dumps({"seconds": took, "latencies": seen.latencies, "statuses": seen.statuses, "lost": seen.lost}))


if __name__ == "__main__":
    main()
