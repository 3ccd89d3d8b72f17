"""Measure what the service costs beside the bare engine, and how fast it answers under half of what it can bear.

    python benchmarks/speed/service.py [--bundle FOLDER] [--rounds 4] [--seconds 15] [--soak 50000]

Without a bundle, a model is trained on the shared photos and exported. In each round the bare engine, in a process of
its own, decodes the same files and runs the same graph in as many threads, and then 64 clients in another process ask
the service. Processor time is that of the server's process alone, as the system counts it. Takes about three minutes;
`--soak` asks so many requests more and watches the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "service.json"
HERE = Path(__file__).parent / "serving"
PHOTOS = REPOSITORY.parent / "shared" / "data" / "hymenoptera"
CLIENTS = 64
BATCHES = (1, 4)  # photos that the bare engine takes together; the cheaper counts
GOAL, LATENCY_GOAL = 1.3, 10.0
TICKS = os.sysconf("SC_CLK_TCK")


class Engine:
    """The bare engine's process."""

    def __init__(self, bundle: Path, photos: Path) -> None:
        command = [sys.executable, str(HERE / "engine.py"), str(bundle), str(photos)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, seconds: float, batch: int) -> dict[str, float]:
        """Let it work for so long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds} {batch}\n")
        self._process.stdin.flush()
        told: dict[str, float] = json.loads(self._process.stdout.readline())
        return told

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Service:
    """The server's process."""

    def __init__(self, bundle: Path) -> None:
        command = [sys.executable, "-m", "headstart", "serve", str(bundle), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.address = ""
        for line in self.process.stderr:
            if found := re.search(r"http://\S+?(?=;)", line):
                self.address = found.group()
                break
        if not self.address:
            raise SystemExit("the service did not start")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for _ in self.process.stderr:
            pass

    def busy(self) -> float:
        """Processor seconds of all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """Megabytes that it occupies."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def load(service: Service, photos: Path, *options: object) -> dict[str, Any]:
    """Let clients ask; with the processor seconds that the server took for it."""
    before = service.busy()
    command = [sys.executable, str(HERE / "client.py"), service.address, str(photos), *map(str, options)]
    told: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    told["busy"] = service.busy() - before
    told["good"] = told["statuses"].get("200", 0)
    told["bad"] = sum(told["statuses"].values()) - told["good"] + told["lost"]
    return told


def percentile(values: list[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def made(place: Path, photos: Path) -> Path:
    """A bundle of a model that was trained on these photos."""
    run, bundle = place / "run", place / "bundle"
    for command in (
        ["train", str(photos), "--quality", "fast", "--out", str(run)],
        ["export", str(run), "--to", "openvino", "--out", str(bundle)],
    ):
        subprocess.run([sys.executable, "-m", "headstart", *command], check=True, stdout=subprocess.DEVNULL)
    return bundle


def measured(bundle: Path, photos: Path, rounds: int, seconds: float, soak: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    engine, service = Engine(bundle, photos), Service(bundle)
    bare: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    costs, rates, bad, waits = [], [], 0, []
    load(service, photos, "--clients", CLIENTS, "--seconds", 3)
    engine.run(2, 1)
    for _ in range(rounds):
        for batch in BATCHES:
            told = engine.run(seconds / 3, batch)
            bare[batch].append(told["busy"] / told["photos"])
        told = load(service, photos, "--clients", CLIENTS, "--seconds", seconds)
        costs.append(told["busy"] / told["good"])
        rates.append(told["good"] / told["seconds"])
        waits += told["latencies"]
        bad += told["bad"]
    least = {batch: statistics.median(each) for batch, each in bare.items()}
    best = min(least, key=lambda batch: least[batch])
    ratio = statistics.median(cost / min(bare[batch][place] for batch in BATCHES) for place, cost in enumerate(costs))
    alone = load(service, photos, "--clients", 1, "--seconds", seconds / 2)
    half = load(service, photos, "--rate", statistics.median(rates) / 2, "--seconds", seconds)
    single = statistics.median(alone["latencies"])
    p99 = percentile(half["latencies"], 0.99)
    rows = [
        *(
            {"what": f"bare engine, {batch} at a time: processor time a photo", "value": f"{1000 * cost:.2f} ms"}
            for batch, cost in least.items()
        ),
        {
            "what": f"service, {CLIENTS} clients: processor time a photo",
            "value": f"{1000 * statistics.median(costs):.2f} ms",
        },
        {"what": f"of the bare engine's, {best} at a time", "value": f"{ratio:.3f} times", "goal": f"{GOAL} times"},
        {"what": f"photos a second, {CLIENTS} clients", "value": f"{statistics.median(rates):.1f}"},
        {"what": f"99 % of answers within, {CLIENTS} clients", "value": f"{1000 * percentile(waits, 0.99):.0f} ms"},
        {"what": "one client: answer within, median", "value": f"{1000 * single:.1f} ms"},
        {
            "what": "half of the load: 99 % of answers within",
            "value": f"{1000 * p99:.1f} ms, {p99 / single:.1f} times",
            "goal": f"{LATENCY_GOAL:.0f} times one client's",
        },
        {"what": "answers that failed", "value": bad + alone["bad"] + half["bad"], "goal": 0},
    ]
    if soak:
        rows += soaked(service, photos, soak)
    engine.close()
    rows.append({"what": "exit code after SIGTERM", "value": service.stop(), "goal": 0})
    return rows


def soaked(service: Service, photos: Path, requests: int) -> list[dict[str, Any]]:
    """How the memory went over so many requests."""
    done, seen = [], []
    while sum(done) < requests:
        told = load(service, photos, "--clients", CLIENTS, "--seconds", 10**6, "--most", min(2500, requests))
        done.append(told["good"])
        seen.append(service.memory())
        if told["bad"]:
            raise SystemExit(f"{told['bad']} requests failed: {told['statuses']}")
    later = seen[len(seen) // 5 :]  # what is allocated once has been
    slope = 0.0
    if len(later) > 1:
        slope = statistics.linear_regression(range(len(later)), later).slope * 1000 * len(done) / sum(done)
    return [
        {
            "what": f"memory over {sum(done):,} requests: at the end of the first fifth, and of all",
            "value": f"{later[0]:.0f} and {seen[-1]:.0f} MB",
        },
        {"what": "grows in 1,000 requests by", "value": f"{slope:.3f} MB"},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        bundle = options.bundle or made(Path(place), options.photos)
        rows = measured(bundle, options.photos, options.rounds, options.seconds, options.soak)
    result = {
        "benchmark": "Service",
        "description": f"EfficientNet-Lite0 in fp32 by OpenVINO, photos of about 500 x 375 pixels in forms; "
        f"{options.rounds} rounds of {options.seconds:g} s, in turn with the bare engine, all on the same two cores as "
        "the clients; medians.",
        "limit": "the bare engine: the same files decoded and run in as many threads, without HTTP",
        "rows": rows,
    }
    options.result.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(rows, indent=2), f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
