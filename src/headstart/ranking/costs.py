"""Find out what a photo takes in a network's own framework, and predict from it what tuning would take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headstart.config import Settings
from headstart.data.dataset import Dataset
from headstart.networks.network import Cut
from headstart.pace import SLOWER
from headstart.runtimes import framework
from headstart.runtimes.trial import trial
from headstart.training import recipe
from headstart.training.sources import Workshop, cost_of

TIMED = 12  # pictures: two threads with one chunk each, and one chunk before that warms up


def framework_seconds(shop: Workshop, cut: Cut) -> float:
    """Seconds of a picture through the frozen part by the framework in fp32, with all threads at work."""
    blank = np.zeros((TIMED, *shop.network.input_shape), np.uint8)
    return trial(framework.open(shop.network, framework.offer_of(shop.network), cut), blank).seconds


def tuning_seconds(shop: Workshop, data: Dataset, cut: Cut, *, pace: float, plain: float) -> float:
    """Seconds that the stages of quality balanced take, by counted work.

    Args:
        shop: has the network.
        data: all photos, with their splits; only their numbers count.
        cut: that the head stands on.
        pace: seconds of a photo through decoding and the frozen part, by what was chosen to compute it.
        plain: the same by the framework alone, which computes the steps.
    """
    groups = shop.network.groups
    whole = sum(group.flops for group in groups)
    asked = recipe.plan(Settings(data=""), validation=recipe.FEW, groups=groups, gpu="cuda" in shop.network.engine)
    seconds = 0.0
    for stage in asked.stages:
        cost = cost_of(shop.network, stage, data, cut, class_weights=shop.class_weights)
        frozen, live = pace * cost.frozen / whole, SLOWER * plain * cost.live / whole
        seconds += replace(cost, frozen=frozen, live=live).work(stage.views)
    return seconds
