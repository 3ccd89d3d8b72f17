"""Run the frozen part in the framework that the network belongs to: the reference, which is always there."""

from __future__ import annotations

from functools import partial

from headstart.networks.network import Cut, Network
from headstart.runtimes.runtime import Offer, Plain, Precision, Runner, Sample, chunk_of

NAME = "framework"


def offers(network: Network) -> tuple[Offer, ...]:
    """The one way: in full precision."""
    return (offer_of(network),)


def offer_of(network: Network) -> Offer:
    """What the framework offers."""
    return Offer(NAME, "fp32", network.engine, chunk_of(network))


def lacks(network: Network, precision: Precision) -> None:
    """Nothing that a user could mend."""


def seconds(network: Network, offer: Offer, upto: Cut, *, identity: str = "") -> float:
    """None: it is there."""
    return 0.0


def open(network: Network, offer: Offer, upto: Cut, *, sample: Sample | None = None, identity: str = "") -> Runner:
    """The network's own features up to the cut."""
    return Plain(network, partial(network.features, upto=upto), offer.chunk)
