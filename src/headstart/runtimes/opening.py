"""Find what can run a network on this machine, and open it."""

from __future__ import annotations

from typing import cast

from headstart.errors import BadRuntime
from headstart.networks.network import Cut, Network
from headstart.registry import Registry
from headstart.runtimes.runtime import Offer, Precision, Runner, Runtime, Sample

RUNTIMES = Registry("runtime", "headstart.runtimes", BadRuntime)


def offers(network: Network) -> list[Offer]:
    """Every way in which this network can be run here."""
    return [offer for runtime in _runtimes() for offer in runtime.offers(network)]


def lacks(network: Network, precision: Precision) -> list[BadRuntime]:
    """Why nothing here offers this precision, as far as somebody could do something about it."""
    return [lack for runtime in _runtimes() if (lack := runtime.lacks(network, precision)) is not None]


def seconds(network: Network, offer: Offer, upto: Cut, *, identity: str = "") -> float:
    """How long opening takes, rather more than less."""
    return runtime_of(offer).seconds(network, offer, upto, identity=identity)


def open_runner(
    network: Network, offer: Offer, upto: Cut, *, sample: Sample | None = None, identity: str = ""
) -> Runner:
    """The part of the network up to the cut, run in the way that was offered.

    Raises:
        BadRuntime: it cannot be run in this way.
    """
    return runtime_of(offer).open(network, offer, upto, sample=sample, identity=identity)


def runtime_of(offer: Offer) -> Runtime:
    """Who has made this offer."""
    return cast(Runtime, RUNTIMES.load(offer.runtime))


def _runtimes() -> list[Runtime]:
    return [cast(Runtime, runtime) for runtime in RUNTIMES.loadable().values()]
