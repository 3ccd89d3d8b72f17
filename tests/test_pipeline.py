"""Files come through decoding and network in order, each failure told at its place, in bounded memory."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from headstart import pipeline
from headstart.modalities.modality import Undecodable
from headstart.runtimes.runtime import CHUNK

WORKERS = 3


class File:
    """Its number in four bytes; it may come slowly, or not at all."""

    def __init__(self, number: int, *, seconds: float = 0.0, problem: OSError | None = None) -> None:
        self.number, self.seconds, self.problem = number, seconds, problem

    def read_bytes(self) -> bytes:
        time.sleep(self.seconds)
        if self.problem:
            raise self.problem
        return self.number.to_bytes(4, "big")


class Runner:
    """Tells each picture's number; keeps count of what it is given."""

    def __init__(self, *, concurrency: int = WORKERS, seconds: float = 0.0) -> None:
        self.chunk, self.concurrency, self.seconds = CHUNK, concurrency, seconds
        self.shapes: list[tuple[int, ...]] = []
        self.computing = self.most = 0
        self.shared: list[int] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def concurrent(self, workers: int) -> Iterator[None]:
        self.shared.append(workers)
        yield

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        with self._lock:
            self.shapes.append(inputs.shape)
            self.computing += 1
            self.most = max(self.most, self.computing)
        time.sleep(self.seconds)
        with self._lock:
            self.computing -= 1
        return inputs.reshape(len(inputs), -1)[:, :4].astype(np.float32) @ np.float32([2**24, 2**16, 2**8, 1])


def decode(content: bytes) -> np.ndarray:
    return np.frombuffer(content * 3, np.uint8).reshape(2, 2, 3)


def files(number: int) -> list[File]:
    return [File(position) for position in range(number)]


def run(paths: Sequence[Any], runner: Any = None, *, decode: Any = decode, workers: int = WORKERS) -> Any:
    return pipeline.run(paths, decode, runner or Runner(), workers=workers)


def numbers(chunks: Iterator[pipeline.Chunk]) -> tuple[list[int], list[float], dict[int, str]]:
    """Positions and values of what could be read, and the reasons of the rest."""
    found = list(chunks)
    return (
        [position for chunk in found for position in chunk.positions],
        [float(value) for chunk in found for value in chunk.values],
        {position: reason for chunk in found for position, reason in chunk.failed.items()},
    )


def test_results_come_in_the_order_of_the_files_whichever_thread_is_done_first():
    paths = [File(position, seconds=0.01 * (position % 5 == 0)) for position in range(50)]
    positions, values, failed = numbers(run(paths))
    assert positions == values == list(range(50))
    assert failed == {}


@pytest.mark.parametrize("number", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 10 * CHUNK])
def test_every_forward_pass_has_the_same_shape_however_many_files_there_are(number):
    runner = Runner()
    positions, values, _ = numbers(run(files(number), runner))
    assert positions == values == list(range(number))
    assert set(runner.shapes) <= {(CHUNK, 2, 2, 3)}
    assert len(runner.shapes) == -(-number // CHUNK)


def test_files_that_fail_are_told_with_their_reason_and_cost_no_other_file_anything():
    paths = files(20)
    paths[3].problem = FileNotFoundError(2, "No such file or directory")
    paths[7].problem = OSError("the network is down")

    def some(content: bytes) -> np.ndarray:
        if content[3] in (8, 9, 10, 11, 19):
            raise Undecodable("not a photo")
        return decode(content)

    runner = Runner()
    positions, values, failed = numbers(run(paths, runner, decode=some))
    bad = {3, 7, 8, 9, 10, 11, 19}
    assert positions == values == [position for position in range(20) if position not in bad]
    assert failed.keys() == bad
    assert failed[3] == "cannot be read: No such file or directory"
    assert failed[7] == "cannot be read: the network is down"
    assert failed[8] == "not a photo"
    assert set(runner.shapes) == {(CHUNK, 2, 2, 3)}
    assert len(runner.shapes) == 4  # none for the chunk in which no file could be read


def test_what_the_network_is_given_is_never_written_to_again():
    class Keeping(Runner):
        def __call__(self, inputs: np.ndarray) -> np.ndarray:
            return inputs  # as a cut before the first layer does

    chunks = list(run(files(40), Keeping()))
    assert [int(value[0, 0, 2]) * 256 + int(value[0, 1, 0]) for chunk in chunks for value in chunk.values] == list(
        range(40)
    )


def test_an_error_in_the_network_comes_out_and_ends_the_work():
    class Failing(Runner):
        def __call__(self, inputs: np.ndarray) -> np.ndarray:
            values = super().__call__(inputs)
            if 40 in values:
                raise RuntimeError("no memory left")
            return values

    runner = Failing()
    got = run(files(4000), runner)
    with pytest.raises(RuntimeError, match="no memory left"):
        list(got)
    assert len(runner.shapes) < 500
    assert not threads()


def test_leaving_early_ends_the_threads_and_what_waited():
    runner = Runner(seconds=0.02)
    work = run(files(4000), runner)
    assert next(work).positions == tuple(range(CHUNK))
    work.close()
    assert not threads()
    assert len(runner.shapes) < pipeline.AHEAD[1] * WORKERS // 2


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("photos")]


def test_no_more_threads_compute_than_the_network_takes_while_the_others_decode():
    runner = Runner(concurrency=1, seconds=0.002)
    decoding = Counted()
    numbers(run(files(100), runner, decode=decoding, workers=4))
    assert runner.most == 1
    assert decoding.most > 1
    assert runner.shared == [4]


class Counted:
    """Decodes, and counts how many pictures are on their way into the network."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, content: bytes) -> np.ndarray:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.001)
        picture = decode(content)
        with self._lock:
            self.now -= 1
        return picture


class Held(Runner):
    """Results of a stated size; remembers how many files were read before the consumer took the first."""

    def __init__(self, bytes_a_photo: int) -> None:
        super().__init__()
        self.width = bytes_a_photo // 4

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        super().__call__(inputs)
        return np.zeros((len(inputs), self.width), np.float32)


def begun(bytes_a_photo: int) -> int:
    """How many chunks a consumer that takes its time lets through."""
    runner = Held(bytes_a_photo)
    work = run(files(40_000), runner)
    for _ in itertools.islice(work, 3):
        pass
    reached = -1
    stood = 0
    while stood < 10:  # looks in a row: a busy machine gives a thread no turn for a while
        stood = stood + 1 if reached == len(runner.shapes) else 0
        reached = len(runner.shapes)
        time.sleep(0.05)
    work.close()
    return reached - 3


def test_a_busy_consumer_keeps_no_thread_waiting_where_results_are_small():
    assert begun(5_000) == pipeline.AHEAD[1] * WORKERS


def test_no_more_results_wait_than_there_is_room_for_where_they_are_large():
    assert begun(1_000_000) == pipeline.AHEAD[0] * WORKERS


def test_pictures_wait_only_in_the_threads_so_memory_does_not_grow_with_the_photos():
    decoded = []

    def remembering(content: bytes) -> np.ndarray:
        decoded.append(content)
        return decode(content)

    release = threading.Event()

    class Stuck(Runner):
        def __call__(self, inputs: np.ndarray) -> np.ndarray:
            release.wait(60)
            return super().__call__(inputs)

    work = run(files(400), Stuck(), decode=remembering)
    first = threading.Thread(target=next, args=(work,))
    first.start()
    end = time.monotonic() + 30
    while len(decoded) < CHUNK * WORKERS and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)  # for more of them, if more were let through
    assert len(decoded) == CHUNK * WORKERS
    release.set()
    first.join()
    work.close()
