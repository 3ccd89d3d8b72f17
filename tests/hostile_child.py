"""Run command lines one after another in this process, and write down what each did that it should not have done.

`python hostile_child.py CASES.json RESULTS.jsonl`: the cases are `{"name", "arguments", "folder"}`. Started by
`test_hostile.py`, in a process of its own with bounds on memory and time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 6 << 30  # bytes that this process may ask for: PyTorch and TensorFlow alone take two
RUNNING = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class")
watching: list[str] | None = None  # what happened; None while nobody watches
allowed: tuple[str, ...] = ()  # folders that may be written to


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells of each file that is opened and each program that is started."""
    if watching is None:
        return
    if event in RUNNING and arguments[0] != "fc-list":  # Matplotlib asks the system for its fonts
        watching.append(f"{event} {arguments[:2]!r}"[:200])
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = os.path.realpath(arguments[0])
        if not path.startswith((*allowed, "/dev/")):
            watching.append(f"wrote {path}")
    if event in ("os.symlink", "os.link", "os.mkdir", "os.rename", "os.chmod"):
        target = arguments[1] if event in ("os.symlink", "os.link", "os.rename") else arguments[0]
        path = os.path.realpath(target) if isinstance(target, str | os.PathLike) else ""
        if path and not path.startswith(allowed):
            watching.append(f"{event} {path}")


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt(case: dict[str, Any]) -> dict[str, Any]:
    """Run one command line."""
    global watching, allowed
    from headstart import cli

    own = (case["folder"], os.environ["HEADSTART_CACHE"], os.environ["HOME"], os.environ["TMPDIR"])
    allowed = tuple(os.path.realpath(folder) for folder in own)
    out, err = io.StringIO(), io.StringIO()
    began, before = time.monotonic(), peak()
    os.chdir(case["folder"])
    watching = []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(case["arguments"])
    did, watching = watching, None
    return {
        "name": case["name"],
        "code": code,
        "out": out.getvalue()[-2000:],
        "err": err.getvalue()[-4000:],
        "seconds": time.monotonic() - began,
        "grew": peak() - before,
        "did": did,
    }


def main() -> None:
    """All cases; each result is written at once, so that a crash is that of the next."""
    cases, results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    sys.addaudithook(watch)
    for case in cases:
        result = attempt(case)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
