"""Find what can run a network on this machine, and open it."""

from __future__ import annotations

from typing import cast

from headstart.errors import BadRuntime
from headstart.networks.network import Cut, Network
from headstart.registry import Registry
from headstart.runtimes.runtime import Offer, Runner, Runtime

RUNTIMES = Registry("runtime", "headstart.runtimes", BadRuntime)


def offers(network: Network) -> list[Offer]:
    """Every way in which this network can be run here."""
    return [offer for runtime in RUNTIMES.loadable().values() for offer in cast(Runtime, runtime).offers(network)]


def open_runner(network: Network, offer: Offer, upto: Cut) -> Runner:
    """The part of the network up to the cut, run in the way that was offered.

    Raises:
        BadRuntime: it cannot be run in this way.
    """
    return cast(Runtime, RUNTIMES.load(offer.runtime)).open(network, offer, upto)
