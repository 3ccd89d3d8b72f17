"""Whatever runs a network gives what its own framework gives, in each way that it offers and at every kind of cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

from headstart import pipeline
from headstart.modalities.modality import Undecodable
from headstart.networks.network import Cut, Network
from headstart.runtimes import framework
from headstart.runtimes.opening import RUNTIMES, offers, open_runner
from headstart.runtimes.runtime import Offer, Runner
from headstart.runtimes.trial import TOLERANCES, compare, trial

from .networks import NETWORKS, SPEC, pictures

ALL = pictures(22, seed=3)  # the last chunk is a partial one
# Weights that are drawn at random and pictures of noise are a harder task for few bits than photos are.
LOOSER = {"fp32": 1.0, "bf16": 2.5, "int8": 10.0}


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, networks: dict[str, Network]) -> Network:
    name = request.param
    if name not in networks:
        networks[name] = NETWORKS[name]()
    return networks[name]


def kinds(network: Network) -> list[Cut]:
    """A cut between groups, the map, and pooled features."""
    between, last = network.cuts[1:-2], network.cuts[-2:]
    return [*between[len(between) // 2 :][:1], *last]


def computed(runner: Runner, rows: np.ndarray) -> np.ndarray:
    """What a runner gives for any number of pictures: in its chunks, the last one filled up."""
    short = -len(rows) % runner.chunk
    filled = np.concatenate([rows, *[rows[-1:]] * short])
    chunks = [runner(filled[first : first + runner.chunk]) for first in range(0, len(filled), runner.chunk)]
    return np.concatenate(chunks)[: len(rows)]


OPENED: dict[tuple[int, Offer, Cut], Runner] = {}  # to bring a network to eight bits takes seconds


def runners(network: Network, cuts: list[Cut]) -> Iterator[tuple[Offer, Cut, Runner]]:
    for offer in offers(network):
        for cut in cuts[-1:] if offer.precision == "int8" else cuts:
            key = (id(network), offer, cut)
            if key not in OPENED:
                OPENED[key] = open_runner(network, offer, cut, sample=lambda: ALL, identity=str(id(network)))
            yield offer, cut, OPENED[key]


# ---- what every runner must do, as checks that raise AssertionError


def check_it_agrees(runner: Runner, network: Network, cut: Cut, tolerance: float) -> None:
    truth = trial(framework.open(network, framework.offer_of(network), cut), ALL)
    other = trial(runner, ALL)
    assert other.rows.dtype == np.float32
    assert other.rows.shape == truth.rows.shape
    difference = compare(truth, other).difference
    assert difference <= tolerance, f"differs by {difference:.2g}"


def check_rows_are_independent(runner: Runner) -> None:
    """A picture's numbers are the same to the bit beside other pictures and at another place."""
    there = computed(runner, ALL)
    back = computed(runner, ALL[::-1].copy())[::-1]
    # Kernels treat the rows of a block alike but may end a block differently.
    np.testing.assert_allclose(there, back, rtol=1e-5, atol=1e-5 * np.abs(there).max())


def check_it_repeats_itself(runner: Runner) -> None:
    once, again = computed(runner, ALL), computed(runner, ALL)
    assert once.tobytes() == again.tobytes()


def check_a_result_stays_as_it_is(runner: Runner) -> None:
    """It is not a view of memory into which the next call writes."""
    first = runner(ALL[: runner.chunk])
    kept = first.copy()
    runner(ALL[-runner.chunk :])
    assert first.tobytes() == kept.tobytes()


def check_threads_work_side_by_side(runner: Runner) -> None:
    alone = computed(runner, ALL)
    with runner.concurrent(3), ThreadPoolExecutor(3) as pool:
        for together in pool.map(lambda _: computed(runner, ALL), range(3)):
            np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())


def check_the_last_chunk_may_be_partial(runner: Runner) -> None:
    """And files that cannot be read leave no trace in the others' rows."""

    def decode(content: bytes) -> np.ndarray:
        if content == b"broken":
            raise Undecodable("broken")
        return ALL[int(content)]

    files = [Given(str(place).encode()) for place in range(len(ALL))]
    files[5] = Given(b"broken")
    chunks = list(pipeline.run(files, decode, runner, workers=2))
    rows = {place: row for chunk in chunks for place, row in zip(chunk.positions, chunk.values, strict=True)}
    assert sorted(rows) == [place for place in range(len(ALL)) if place != 5]
    whole = computed(runner, ALL)
    for place, row in rows.items():
        np.testing.assert_allclose(row, whole[place], rtol=1e-5, atol=1e-5 * np.abs(whole).max())


class Given:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def read_bytes(self) -> bytes:
        return self.content


CHECKS: tuple[Callable[[Runner], None], ...] = (
    check_rows_are_independent,
    check_it_repeats_itself,
    check_a_result_stays_as_it_is,
    check_threads_work_side_by_side,
    check_the_last_chunk_may_be_partial,
)


def test_every_way_agrees_with_the_framework_at_every_kind_of_cut(network: Network) -> None:
    for offer, cut, runner in runners(network, kinds(network)):
        try:
            check_it_agrees(runner, network, cut, TOLERANCES[offer.precision] * LOOSER[offer.precision])
        except AssertionError as problem:
            raise AssertionError(f"{offer} at {cut.name}: {problem}") from problem


def test_every_way_keeps_its_word(network: Network) -> None:
    for offer, cut, runner in runners(network, network.cuts[-1:]):
        for check in CHECKS:
            try:
                check(runner)
            except AssertionError as problem:
                raise AssertionError(f"{offer} at {cut.name}: {check.__name__}: {problem}") from problem


def test_every_runtime_says_what_opening_costs_and_what_it_lacks(network: Network) -> None:
    for runtime in RUNTIMES.loadable().values():
        for offer in runtime.offers(network):
            assert runtime.seconds(network, offer, network.cuts[-1]) >= 0
            assert runtime.lacks(network, offer.precision) is None


def test_the_framework_is_always_offered(network: Network) -> None:
    assert framework.offer_of(network) in offers(network)


# ---- the checks themselves


class Faulty:
    """A runner that does what the network does, but for one fault."""

    chunk, concurrency = 4, 2

    def __init__(self, network: Network, fault: str) -> None:
        self.network, self.fault = network, fault
        self.calls = 0
        self.memory = np.empty(0)

    def concurrent(self, workers: int) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        self.calls += 1
        rows: Any = self.network.features(inputs, self.network.cuts[-1]).copy()
        match self.fault:
            case "inexact":
                rows += 0.01 * rows.std()
            case "wide":
                rows = rows.astype(np.float64)
            case "neighbours":
                rows += 0.1 * rows.mean(axis=0)
            case "drifting":
                rows += 1e-4 * self.calls
            case "shared":
                if not self.memory.size:
                    self.memory = np.empty_like(rows)
                self.memory[:] = rows
                return self.memory
        return rows


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("inexact", None),
        ("wide", None),
        ("neighbours", check_rows_are_independent),
        ("drifting", check_it_repeats_itself),
        ("shared", check_a_result_stays_as_it_is),
        ("neighbours", check_the_last_chunk_may_be_partial),
        ("drifting", check_threads_work_side_by_side),
    ],
)
def test_a_faulty_runner_is_found(fault: str, check: Callable[[Runner], None] | None) -> None:
    network = NETWORKS["torch"]()
    assert network.input_shape == (SPEC.size, SPEC.size, 3)
    for each in ("none", fault):
        runner = Faulty(network, each)
        asked = check or (lambda runner: check_it_agrees(runner, network, network.cuts[-1], TOLERANCES["fp32"]))
        if each == "none":
            asked(runner)
        else:
            with pytest.raises(AssertionError):
                asked(runner)
