"""Run the frozen part in the framework that the network belongs to: the reference, which is always there."""

from __future__ import annotations

from functools import partial

from headstart.networks.network import Cut, Network
from headstart.runtimes.runtime import CHUNK, Offer, Plain, Runner

NAME = "framework"


def offers(network: Network) -> tuple[Offer, ...]:
    """The one way: in full precision."""
    return (offer_of(network),)


def offer_of(network: Network) -> Offer:
    """What the framework offers."""
    return Offer(NAME, "fp32", network.engine, CHUNK)


def open(network: Network, offer: Offer, upto: Cut) -> Runner:
    """The network's own features up to the cut."""
    return Plain(network, partial(network.features, upto=upto), offer.chunk)
