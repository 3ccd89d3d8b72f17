"""The number of threads follows from what photos, processor and network were measured to take."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart import workers
from headstart.errors import HeadstartError
from headstart.modalities.modality import Undecodable
from headstart.runtimes.runtime import CHUNK
from headstart.workers import Pace, chosen, needed


class Clock:
    """Time that passes where it is said to, and nowhere else: a busy machine would be measured with the rest."""

    def __init__(self) -> None:
        self.now = self.busy = 0.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.busy

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.busy += seconds


CLOCK = Clock()


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "time", CLOCK)


class File:
    """Comes after so many seconds."""

    def __init__(self, seconds: float = 0.0, *, problem: OSError | None = None) -> None:
        self.seconds, self.problem, self.reads = seconds, problem, 0

    def read_bytes(self) -> bytes:
        self.reads += 1
        CLOCK.wait(self.seconds)
        if self.problem:
            raise self.problem
        return b"photo"


class Runner:
    chunk, concurrency = CHUNK, 2

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    @contextlib.contextmanager
    def concurrent(self, workers: int) -> Iterator[None]:
        yield

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        assert inputs.shape == (CHUNK, 2, 2, 3)
        CLOCK.wait(self.seconds)
        return np.zeros((CHUNK, 1), np.float32)


def decode(content: bytes, *, seconds: float = 0.001) -> np.ndarray:
    CLOCK.work(seconds)
    return np.zeros((2, 2, 3), np.uint8)


def choose(files: list[Any], runner: Runner | None = None, *, cores: int = 2, gpu: bool = False) -> tuple[int, str]:
    def opened() -> Any:
        assert runner is not None, "nothing is to be opened where its pace does not matter"
        return runner

    return chosen(files, decode, opened, cores=cores, gpu=gpu)


@pytest.mark.usefixtures("_clock")
def test_files_that_come_at_once_get_a_thread_a_core_and_nothing_is_opened_to_find_out():
    assert choose([File() for _ in range(100)]) == (2, "cores of this machine; files come without waiting")


@pytest.mark.usefixtures("_clock")
def test_files_that_come_slowly_get_more_threads():
    number, reason = choose([File(0.02) for _ in range(100)], Runner(0.004))
    assert 10 <= number <= 16
    assert reason.startswith("a photo waits 2")
    assert "keeps a core busy" in reason


@pytest.mark.usefixtures("_clock")
def test_only_a_few_files_are_read_to_find_out_from_all_over_the_data_set():
    files = [File() for _ in range(1000)]
    choose(files)
    read = [place for place, file in enumerate(files) if file.reads]
    assert len(read) <= workers.SAMPLED
    assert (read[0], read[-1]) == (0, 999)


@pytest.mark.usefixtures("_clock")
def test_very_slow_files_do_not_hold_up_the_run():
    began = CLOCK.now
    number, _ = choose([File(0.4) for _ in range(100)], Runner())
    assert CLOCK.now - began < workers.SECONDS + 0.5
    assert number == 2 * workers.MOST


@pytest.mark.usefixtures("_clock")
def test_a_single_slow_file_among_fast_ones_changes_nothing():
    assert choose([File(0.2 * (place == 0)) for place in range(100)])[0] == 2


@pytest.mark.usefixtures("_clock")
@pytest.mark.parametrize("problem", [FileNotFoundError(2, "gone"), PermissionError(13, "not yours")])
def test_files_that_cannot_be_read_are_left_to_the_extraction(problem):
    assert choose([File(problem=problem) for _ in range(10)]) == (2, "cores of this machine")
    assert choose([])[0] == 2


@pytest.mark.usefixtures("_clock")
def test_files_that_cannot_be_decoded_are_left_to_the_extraction():
    def never(content: bytes) -> np.ndarray:
        raise Undecodable("not a photo")

    assert chosen([File()] * 10, never, Runner, cores=2)[0] == 2


# ---- the number for a pace


def test_a_slow_network_needs_no_more_threads_than_cores_even_where_files_come_slowly():
    assert needed(Pace(waiting=0.005, decoding=0.001, computing=0.1), cores=4, gpu=False)[0] == 4


def test_there_are_as_many_threads_as_work_while_one_waits():
    assert needed(Pace(waiting=0.006, decoding=0.001, computing=0.002), cores=4, gpu=False)[0] == 12


def test_a_gpu_gets_as_many_decoders_as_keep_it_busy():
    number, reason = needed(Pace(waiting=0.0, decoding=0.001, computing=0.001), cores=16, gpu=True)
    assert 2 <= number <= 4
    assert reason == "a photo takes 1 ms to read and decode and 1 ms on the GPU"


def test_a_gpu_that_is_faster_than_the_cores_gets_all_of_them_and_no_more():
    number, reason = needed(Pace(waiting=0.0, decoding=0.03, computing=0.0003), cores=16, gpu=True)
    assert number == 16
    assert reason.endswith("more than the cores can feed")


def test_a_gpu_gets_more_decoders_than_cores_where_these_wait_for_files():
    assert needed(Pace(waiting=0.003, decoding=0.001, computing=0.0003), cores=4, gpu=True)[0] == 16
    assert needed(Pace(waiting=10.0, decoding=0.001, computing=0.0003), cores=4, gpu=True)[0] == 4 * workers.MOST


def test_a_gpu_beside_one_core_gets_two_threads():
    assert needed(Pace(waiting=0.0, decoding=0.01, computing=0.001), cores=1, gpu=True)[0] == 2
    assert needed(Pace(waiting=0.0, decoding=1e-5, computing=0.1), cores=16, gpu=True)[0] == 2


# ---- in a run


FLOWERS = Path(__file__).parents[1].parent / "shared" / "data" / "flowers5"


@pytest.mark.skipif(not FLOWERS.exists(), reason="the shared photos are not here")
@pytest.mark.parametrize("asked", [None, 3])
def test_a_run_tells_how_many_threads_it_took_and_why(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    for folder in sorted(path for path in FLOWERS.iterdir() if path.is_dir())[:2]:
        (tmp_path / "photos" / folder.name).mkdir(parents=True)
        for photo in sorted(folder.glob("*.jpg"))[:10]:
            (tmp_path / "photos" / folder.name / photo.name).write_bytes(photo.read_bytes())
    hs.train(tmp_path / "photos", out=tmp_path / "run", quality="fast", size=64, workers=asked)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    (told,) = [event for event in events if event.get("name") == "workers"]
    if asked:
        assert (told["value"], told["reason"]) == (asked, "asked for")
    else:
        assert told["value"] >= 1
        assert told["reason"] != "asked for"


def test_a_number_of_threads_that_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(HeadstartError, match="workers"):
        hs.train(tmp_path, workers=0)
