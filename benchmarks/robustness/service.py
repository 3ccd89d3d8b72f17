"""Ask the service nonsense: requests made from its own description, and damaged photos of every kind.

    python benchmarks/robustness/service.py BUNDLE [--requests 20000] [--photos 10000]

schemathesis makes the requests, half of them against the description, and checks each answer against it; it lives in
an environment of its own or beside headstart (`pip install schemathesis`). The damaged photos are those of
`mutations.py`. Goal: no status 500, no answer that the description does not know, no crash.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2 as httpx
import numpy as np
from mutations import damaged, seeds

from headstart.machine import cores

RESULT = Path(__file__).parents[1] / "results" / "service_fuzz.json"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
COUNTED = re.compile(r'^headstart_requests_total\{route="(.*)",status="(\d+)"\} (\S+)', re.MULTILINE)
OURS = ("/metrics", "/openapi.json")
EXAMPLES = 1000  # requests of each kind that schemathesis makes in one go
TOGETHER = 8  # damaged photos under way at a time
ALLOWED = {500: False, 503: True}  # of the answers that blame the service: it may say that it is busy


@contextmanager
def service(bundle: Path) -> Iterator[tuple[str, int]]:
    """The address and the process of a service of this bundle."""
    command = [sys.executable, "-m", "headstart", "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://[\d.:]+", line):
                break
        else:
            raise SystemExit("the service did not start")
        yield found.group(), process.pid  # nobody reads on: what it tells must not hold it up
    finally:
        process.terminate()
        process.wait(timeout=60)
        print("the service ended with", process.returncode, flush=True)


def answered(address: str) -> Counter[int]:
    """How many requests the service has answered, by status, as it counts them itself.

    Left out are those for the figures and the description, which are ours too, and what is refused before it is a
    request: so no less was asked than this.
    """
    text = httpx.get(f"{address}/metrics").text
    found: Counter[int] = Counter()
    for route, status, number in COUNTED.findall(text):
        if route not in OURS:
            found[int(status)] += int(float(number))
    return found


def memory(pid: int) -> float:
    """Megabytes of a process that are in memory now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS"))


def asked(address: str, requests: int) -> list[str]:
    """What schemathesis complains about, after at least so many requests; it runs once on each core at a time.

    Not with several threads instead: they share a core, and Python's compiler, which it asks for, fails in some.
    """
    complaints: list[str] = []
    numbers, done, first = count(), 0, sum(answered(address).values())
    while done < requests:
        with TemporaryDirectory() as folder:  # it leaves files where it works
            programs = [_schemathesis(address, next(numbers), folder) for _ in range(cores())]
            told = [(program.communicate()[0], program.returncode) for program in programs]
        complaints += [text[-6000:] for text, code in told if code]
        before, done = done, sum(answered(address).values()) - first
        print(f"{done} requests so far", *complaints[-len(programs) :], sep="\n", flush=True)
        if done == before:
            raise SystemExit(f"schemathesis asked nothing:\n{told[0][0]}")
    return complaints


def _schemathesis(address: str, seed: int, folder: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json"]
    command += ["--max-examples", str(EXAMPLES), "--seed", str(seed), "--mode", "all", "--no-shrink"]
    command += ["--checks", CHECKS, "--phases", "coverage,fuzzing", "--continue-on-failure"]
    command += ["--suppress-health-check", "all", "--request-timeout", "60"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)


async def photos(address: str, count: int) -> tuple[Counter[int], float]:
    """Statuses for damaged photos, and the slowest answer in seconds."""
    kinds = list(seeds().values())
    statuses: Counter[int] = Counter()
    slowest = 0.0

    async def one(client: httpx.AsyncClient, number: int) -> None:
        nonlocal slowest
        content = kinds[number % len(kinds)]
        file = damaged(content, np.random.default_rng([number, len(content)]))
        began = time.monotonic()
        if number % 20:
            reply = await client.post("/predict", content=file, headers={"content-type": "application/octet-stream"})
        else:
            reply = await client.post("/explain", files={"file": ("photo", file)})
        slowest = max(slowest, time.monotonic() - began)
        statuses[reply.status_code] += 1

    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        for first in range(0, count, TOGETHER):
            await asyncio.gather(*(one(client, number) for number in range(first, min(count, first + TOGETHER))))
    return statuses, slowest


def row(what: str, statuses: Counter[int], seconds: float, **more: Any) -> dict[str, Any]:
    """A line of the table."""
    bad = sum(count for status, count in statuses.items() if status >= 500 and not ALLOWED.get(status, False))
    told = ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
    return {"what": what, "requests": sum(statuses.values()), "errors of the service": bad, "statuses": told} | {
        "seconds": seconds,
        **more,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--photos", type=int, default=10_000)
    arguments = parser.parse_args()
    rows = []
    with service(arguments.bundle) as (address, pid):
        before, began, lean = answered(address), time.monotonic(), memory(pid)
        complaints = asked(address, arguments.requests)
        statuses = answered(address) - before
        more = {"complaints": len(complaints), "memory, MB": [lean, memory(pid)]}
        rows.append(row("requests from the description", statuses, time.monotonic() - began, **more))
        began, lean = time.monotonic(), memory(pid)
        statuses, slowest = asyncio.run(photos(address, arguments.photos))
        more = {"slowest, s": slowest, "memory, MB": [lean, memory(pid)]}
        rows.append(row("damaged photos", statuses, time.monotonic() - began, **more))
    result = {
        "benchmark": "Nonsense for the service",
        "description": "Requests that schemathesis makes from the service's own description (valid ones and ones that "
        "are not) with every answer checked against it, and damaged photos of 26 kinds. Goal: no error of the "
        "service, nothing that the description does not know, no crash.",
        "limit": "",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
