"""Choose what computes the frozen part: the fastest way here whose features agree with the framework's in fp32."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import UInt8

from headstart.backbones.backbone import Backbone
from headstart.config import Precision as Wish
from headstart.data.dataset import Dataset
from headstart.errors import BadRuntime
from headstart.events import Decision, Event, Note
from headstart.features import Features, decoded, extract, missing
from headstart.modalities.modality import Modality
from headstart.networks.network import Cut, Network
from headstart.runtimes import framework
from headstart.runtimes.opening import lacks, offers, open_runner, seconds
from headstart.runtimes.runtime import CALIBRATION, Offer, Precision, Runner, Sample
from headstart.runtimes.trial import Trial, compare, trial
from headstart.store import Store

COMPARED = 16  # photos by which a way is compared with the framework
LONG = 30.0  # seconds of the frozen part from which on a user may want to hear how to spare them
SLOW = 2e10  # operations a second of a framework on a slow processor
EXACT: tuple[Precision, ...] = ("fp32", "bf16", "int8")  # the most exact first
# How many times as fast as the framework a way is at least expected to be, to decide whether opening it can pay.
EXPECTED: dict[Precision, float] = {"fp32": 1.25, "bf16": 3.0, "int8": 3.0}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which features are wanted: of which photos, at which cut, decoded how. Not: who computes them."""

    dataset: Dataset
    backbone: Backbone
    network: Network
    cut: Cut
    modality: Modality
    store: Store
    reduced: bool = True
    view: int = 0
    half: bool = False
    views: int = 1  # how many will be wanted of each photo

    def missing(self, offer: Offer) -> int:
        """How many photos this way would have to compute, each view of one counted."""
        return self.views * len(
            missing(
                self.dataset,
                self.backbone,
                self.cut,
                offer,
                modality=self.modality,
                store=self.store,
                reduced=self.reduced,
                view=self.view,
                half=self.half,
            )
        )

    def drawn(self, most: int) -> list[str]:
        """Ids of so many photos, always the same, whatever their order and names: ids are hashes of contents.

        Training photos where there are any: then a choice for these alone is one for all, and `rank` and `train` agree.
        """
        items = self.dataset.train.items or self.dataset.items
        return sorted({item.id for item in items})[:most]

    def pictures(self, most: int) -> UInt8[np.ndarray, "n h w c"]:
        """So many photos as they enter the network."""
        ids = self.drawn(4 * most)
        return decoded(self.dataset, ids, self.backbone, self.modality, most=most, reduced=self.reduced)

    @property
    def identity(self) -> str:
        """Changes with the weights and with how pictures are normalised."""
        return f"{self.backbone.weights_hash} {self.backbone.spec.fingerprint}"

    @property
    def calibration(self) -> str:
        """A digest of the photos by which a network is brought to eight bits."""
        return hashlib.blake2b("".join(self.drawn(CALIBRATION)).encode(), digest_size=4).hexdigest()

    @property
    def sample(self) -> Sample:
        """Those photos."""
        return partial(self.pictures, CALIBRATION)

    def open(self, offer: Offer) -> Runner:
        """The offer, opened.

        Raises:
            BadRuntime: it cannot be.
        """
        return open_runner(self.network, offer, self.cut, sample=self.sample, identity=self.identity)

    def toll(self, offer: Offer) -> float:
        """Seconds that opening the offer takes, rather more than less."""
        return seconds(self.network, offer, self.cut, identity=self.identity)


@dataclass(frozen=True)
class Chosen:
    """What computes, why, and itself where it was opened to find out."""

    offer: Offer
    reason: str
    runner: Runner | None = None


@dataclass
class Choices:
    """What computes the features of one network at each of its cuts: chosen at the first need, then always the same."""

    precision: Wish = "auto"
    told: Callable[[str], Decision | None] = lambda name: None  # what an interrupted run has chosen
    _offers: dict[str, Offer] = field(default_factory=dict)
    _opened: tuple[Network, Offer, Cut, Runner] | None = None  # the last one: weights that are held twice
    _advised: bool = False

    def offer(self, wanted: Wanted) -> Generator[Event, None, Offer]:
        """What computes these features.

        With several processes, all of them must ask, and none while another waits for it: they take the same.

        Raises:
            BadRuntime: no way allows the precision that was asked for.
        """
        name = f"runtime/{wanted.cut.name}"
        if name not in self._offers:
            self._offers[name] = yield from self._first(wanted, name)
        return self._offers[name]

    def features(
        self, wanted: Wanted, *, workers: int | None = None, exact: bool = False
    ) -> Generator[Event, None, Features]:
        """The features, out of the store or computed; `exact`: by the network's own framework.

        Raises:
            BadRuntime: no way allows the precision that was asked for.
            DiskFull: the store has no room for them.
        """
        offer = framework.offer_of(wanted.network) if exact else (yield from self.offer(wanted))
        began = time.monotonic()
        found = yield from extract(
            wanted.dataset,
            wanted.backbone,
            wanted.network,
            wanted.cut,
            modality=wanted.modality,
            store=wanted.store,
            reduced=wanted.reduced,
            workers=workers,
            view=wanted.view,
            offer=offer,
            runner=partial(self.runner, wanted, offer),
            half=wanted.half,
        )
        yield from self._advice(wanted, offer, time.monotonic() - began)
        return found

    def _advice(self, wanted: Wanted, offer: Offer, took: float) -> Iterator[Event]:
        """Once, where much time went by: what would have spared it."""
        if offer.runtime != framework.NAME or took < LONG or self._advised:
            return
        for lack in lacks(wanted.network, "fp32"):
            self._advised = True
            yield Note(text=f"the frozen part took {took:.0f} s: {lack.what}; {lack.fix}")

    def runner(self, wanted: Wanted, offer: Offer) -> Runner:
        """The offer, opened; kept until another is wanted.

        Raises:
            BadRuntime: it cannot be opened.
        """
        if self._opened is not None:
            network, *same, runner = self._opened
            if network is wanted.network and same == [offer, wanted.cut]:
                return runner
            self._opened = None
        runner = wanted.open(offer)
        self._opened = (wanted.network, offer, wanted.cut, runner)
        return runner

    def _first(self, wanted: Wanted, name: str) -> Generator[Event, None, Offer]:
        ways = here(wanted)
        told = self.told(name)
        if told is not None:
            for offer in ways:
                if str(offer) == told.value:
                    return offer
            yield Note(text=f"{told.value}, which the run began with, is not here: features may differ")
        chosen = choose(wanted, self.precision)
        place = ways.index(chosen.offer)
        if len(ways) > 1:
            place = int(wanted.network.agree(float(place)))
        if ways[place] != chosen.offer:  # another process has found another
            chosen = Chosen(ways[place], chosen.reason)
        if chosen.runner is not None:
            self._opened = (wanted.network, chosen.offer, wanted.cut, chosen.runner)
        yield Decision(name=name, value=str(chosen.offer), reason=chosen.reason)
        return chosen.offer


def here(wanted: Wanted) -> list[Offer]:
    """Every way to compute these features here, the fastest first and the framework last."""
    found = [
        replace(offer, calibration=wanted.calibration) if offer.precision == "int8" else offer
        for offer in offers(wanted.network)
    ]
    return sorted(found, key=lambda offer: (offer.runtime == framework.NAME, -EXPECTED[offer.precision]))


def check_precision(network: Network, precision: Wish) -> None:
    """Nothing, where this precision can be had for this network here.

    Raises:
        BadRuntime: it cannot, with what could be done about it.
    """
    if precision != "auto":
        allowed(offers(network), network, precision)


def allowed(ways: Sequence[Offer], network: Network, precision: Wish) -> list[Offer]:
    """Those of these ways that a setting allows: by itself all but eight bits, whose cost a user must want.

    Raises:
        BadRuntime: there is none, with what could be done about it.
    """
    found = [
        offer for offer in ways if offer.precision == precision or (precision == "auto" and offer.precision != "int8")
    ]
    if found or precision == "auto":
        return found
    for lack in lacks(network, precision):
        raise BadRuntime(f"features cannot be computed in {precision}: {lack.what}", fix=lack.fix)
    raise BadRuntime(
        f"features cannot be computed in {precision}: nothing here runs {network.engine} in it",
        fix="leave the precision out",
    )


def expected(offer: Offer, seconds: float) -> float:
    """Seconds of a photo by this way, where it was not tried, from those by the framework."""
    return seconds if offer.runtime == framework.NAME else seconds / EXPECTED[offer.precision]


def least(wanted: Wanted, left: int) -> float:
    """Seconds that the framework needs for so many photos, by its operations and on a slow machine: rather more."""
    below = wanted.network.groups[: wanted.cut.after]
    return left * sum(group.flops for group in below) / SLOW


def choose(wanted: Wanted, precision: Wish = "auto") -> Chosen:
    """The fastest way that agrees with the framework; the framework where none does or where opening one costs more.

    What is in the cache already is taken as it is. A precision that was asked for is taken whatever it differs by,
    unless its features are no finite numbers.

    Raises:
        BadRuntime: the precision that was asked for cannot be had.
    """
    ways = allowed(here(wanted), wanted.network, precision)
    reference = framework.offer_of(wanted.network)
    if ways == [reference]:
        return Chosen(reference, "nothing faster is here" if precision == "auto" else "nothing else here is in fp32")
    left = {offer: wanted.missing(offer) for offer in ways}
    complete = [offer for offer in ways if not left[offer]]
    if complete:
        best = min(complete, key=lambda offer: (EXACT.index(offer.precision), offer != reference))
        return Chosen(best, "its features are in the cache already")
    if reference in ways and least(wanted, left[reference]) < min(map(wanted.toll, ways[:-1])):
        return Chosen(reference, f"for {left[reference]} photos nothing else is worth preparing")
    pictures = wanted.pictures(COMPARED)
    if len(pictures) < 2:
        return Chosen(ways[-1], "there are no photos to compare by")
    truth = trial(framework.open(wanted.network, reference, wanted.cut), pictures)
    if reference in ways:
        return _fastest(wanted, ways, left, truth, pictures)
    return _asked_for(wanted, ways[0], truth, pictures)


def _fastest(
    wanted: Wanted, ways: Sequence[Offer], left: dict[Offer, int], truth: Trial, pictures: UInt8[np.ndarray, "n h w c"]
) -> Chosen:
    reference, refused = ways[-1], list[str]()
    for offer in ways[:-1]:
        spared = left[reference] * truth.seconds - left[offer] * expected(offer, truth.seconds)
        if spared <= (toll := wanted.toll(offer)):
            refused.append(
                f"{left[reference]} photos take it {left[reference] * truth.seconds:.1f} s,"
                f" and to prepare {offer} takes up to {toll:.1f} s"
            )
            continue
        try:
            runner = wanted.open(offer)
        except BadRuntime as problem:
            refused.append(f"{offer}: {problem.what}")
            continue
        tried = trial(runner, pictures)
        against = compare(truth, tried)
        if refusal := against.refusal(offer):
            refused.append(refusal)
            continue
        return Chosen(offer, "; ".join([str(against), *refused]), runner)
    return Chosen(reference, "; ".join(dict.fromkeys(refused)))


def _asked_for(wanted: Wanted, offer: Offer, truth: Trial, pictures: UInt8[np.ndarray, "n h w c"]) -> Chosen:
    runner = wanted.open(offer)
    against = compare(truth, trial(runner, pictures))
    if not np.isfinite(against.difference):
        raise BadRuntime(
            f"features in {offer.precision} are not all finite numbers with this backbone",
            fix="leave the precision out, or take fp32",
        )
    return Chosen(offer, f"asked for; {against}", runner)
