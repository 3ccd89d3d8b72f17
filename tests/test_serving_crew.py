"""How photos of many requests share threads and the network."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from headstart.exporting.format import Outputs
from headstart.serving.batching import Crew
from headstart.serving.metrics import Figures
from headstart.serving.refusals import Refusal
from headstart.serving.replies import Answer, Asked, Reply, Unanswered
from headstart.serving.swapping import Model

from .serving_client import photo
from .serving_model import Colour, predictor

RED, BLUE = photo((250, 10, 10)), photo((10, 10, 250))


@dataclass
class Gated(Colour):
    """Computes nothing before it is let go, and remembers how many were inside at a time."""

    go: threading.Event = field(default_factory=threading.Event)
    inside: int = 0
    most: int = 0

    def squares(self, pictures: np.ndarray) -> Outputs:
        self.inside += 1
        self.most = max(self.most, self.inside)
        assert self.go.wait(20)
        time.sleep(0.01)
        self.inside -= 1
        return super().squares(pictures)


class Broken(Colour):
    """Fails on what is blue."""

    def squares(self, pictures: np.ndarray) -> Outputs:
        if pictures[..., 2].mean() > 200:
            raise RuntimeError("no blue")
        return super().squares(pictures)


def model(graph: Colour) -> Model:
    return Model(predictor=predictor(graph), most_pixels=10**6, number=1)


@contextmanager
def crew(told: Callable[[str], None] = print, **options: float) -> Iterator[Crew]:
    """Threads, while open."""
    settings = {"workers": 2, "queue": 64, "batch": 4, "seconds": 30.0} | options
    opened = Crew(figures=Figures(), tell=told, **settings)  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        opened.close()


def label(reply: Reply) -> int:
    assert isinstance(reply, Answer)
    return int(reply.probabilities.argmax())


def test_photos_that_wait_go_together_and_each_gets_its_own_answer() -> None:
    graph = Gated()
    answers: list[Reply] = []

    async def ask() -> None:
        asked = [Asked([RED if place % 2 else BLUE], model_) for place in range(13)]
        tasks = [asyncio.ensure_future(opened.answer(each)) for each in asked]
        await asyncio.sleep(0.3)  # all that can is decoded, and two passes wait
        graph.go.set()
        answers.extend(reply for replies in await asyncio.gather(*tasks) for reply in replies)

    model_ = model(graph)
    with crew() as opened:
        asyncio.run(ask())
    assert [label(reply) for reply in answers] == [0 if place % 2 else 2 for place in range(13)]
    assert sum(graph.batches) == 13
    assert max(graph.batches) == 4
    assert len(graph.batches) < 8


def test_a_photo_that_comes_alone_waits_for_nobody() -> None:
    graph = Colour()
    with crew() as opened:
        (reply,) = asyncio.run(opened.answer(Asked([RED], model(graph))))
    assert label(reply) == 0
    assert graph.batches == [1]


def test_photos_for_two_models_never_go_together() -> None:
    one, two = Gated(), Gated()

    async def ask() -> None:
        tasks = [asyncio.ensure_future(opened.answer(Asked([RED], each))) for each in [model(one), model(two)] * 6]
        await asyncio.sleep(0.2)
        one.go.set()
        two.go.set()
        await asyncio.gather(*tasks)

    with crew() as opened:
        asyncio.run(ask())
    assert sum(one.batches) == sum(two.batches) == 6


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_more_threads_compute_at_a_time_than_the_graph_can_use(concurrency: int) -> None:
    graph = Gated(concurrency=concurrency)
    graph.go.set()
    with crew(workers=4, batch=1) as opened:
        replies = asyncio.run(opened.answer(Asked([RED] * 20, model(graph))))
    assert len(replies) == 20
    assert graph.most == concurrency


def test_a_photo_that_the_model_fails_on_has_a_reason_and_the_others_are_answered() -> None:
    told: list[str] = []
    with crew(told.append, batch=1) as opened:
        good, bad = asyncio.run(opened.answer(Asked([RED, BLUE], model(Broken()))))
    assert label(good) == 0
    assert isinstance(bad, Unanswered)
    assert bad.ours
    assert "no blue" not in bad.reason
    assert "no blue" in told[0]


def test_a_request_that_does_not_fit_into_the_queue_is_refused_at_once() -> None:
    with crew(queue=3) as opened, pytest.raises(Refusal) as refused:
        asyncio.run(opened.answer(Asked([RED] * 4, model(Colour()))))
    assert refused.value.status == 503
    assert int(refused.value.headers["retry-after"]) >= 1


def test_a_request_that_could_not_be_answered_in_time_is_refused_and_not_left_to_wait() -> None:
    async def ask() -> None:
        graph = Colour(delay=0.3)
        slow = model(graph)
        await opened.answer(Asked([RED], slow))  # from here on it is known what a photo takes
        waiting = asyncio.ensure_future(opened.answer(Asked([RED] * 8, slow)))
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal, match="too long") as refused:
            await opened.answer(Asked([RED], slow))
        assert refused.value.status == 503
        assert len(await waiting) == 8

    with crew(workers=1, batch=1, seconds=1.0) as opened:
        asyncio.run(ask())


def test_what_waits_when_the_threads_are_told_to_end_is_still_answered() -> None:
    async def ask() -> list[Reply]:
        task = asyncio.ensure_future(opened.answer(Asked([RED] * 10, model(Colour(delay=0.02)))))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(opened.close)
        with pytest.raises(Refusal, match="stopping"):
            await opened.answer(Asked([RED], model(Colour())))
        return list(await task)

    with crew() as opened:
        assert len(asyncio.run(ask())) == 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in other ways")
def test_memory_of_a_large_photo_is_given_back_though_something_small_lies_behind_it() -> None:
    program = """
import os, sys
from pathlib import Path
from headstart.machine import keep_freed_memory, return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

keep_freed_memory()  # as the export of a run does, in the same process
if sys.argv[1] == "service":
    return_freed_memory()
before, photo = resident(), bytearray(b"1") * (1 << 24)
small = bytearray(b"1") * 100_000
del photo
print(resident() - before)
"""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", program, who], capture_output=True, check=True).stdout)
        for who in ("training", "service")
    )
    assert kept > 1 << 23 > given_back
