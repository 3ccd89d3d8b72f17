"""Tell the benchmark how a process did: a line of JSON, with the time and what the process has used until then."""

import csv
import json
import resource
import time
from pathlib import Path


def tell(**facts):
    """Print the facts, with now, the processor's seconds and the largest memory so far, workers included."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    used = {
        "now": time.time(),
        "processor": own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime,
        "memory": max(own.ru_maxrss, others.ru_maxrss) / 1e3,
    }
    print(json.dumps({**used, **facts}), flush=True)


def rows(splits):
    """The lines of the file of splits: `path`, `label`, `split` (train or test)."""
    with Path(splits).open(newline="") as file:
        return list(csv.DictReader(file))
