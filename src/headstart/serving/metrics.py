"""Count what the service does, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 3, 4, 6, 8, 16, 32, 64)


class Figures:
    """All of one service, in a registry of its own: two services in one process do not add up."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        ProcessCollector(registry=own)  # processor seconds, memory and open files, as process_*
        name = "headstart"
        self._requests = Counter(f"{name}_requests", "Requests answered.", ("route", "status"), registry=own)
        self._seconds = Histogram(
            f"{name}_request_seconds",
            "From a request's first line to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=own,
        )
        self._photos = Counter(f"{name}_photos", "Photos, by what became of them.", ("outcome",), registry=own)
        self._batches = Histogram(
            f"{name}_batch_photos", "Photos that went through the network together.", buckets=_SIZES, registry=own
        )
        self._swaps = Counter(f"{name}_swaps", "New bundles, by what became of them.", ("outcome",), registry=own)
        self._queue = Gauge(f"{name}_queue_photos", "Photos that wait.", registry=own)
        self._connections = Gauge(f"{name}_connections", "Connections that are open.", registry=own)
        self._model = Gauge(f"{name}_model_number", "Counts the bundles that were opened.", registry=own)

    def watch(
        self, *, queue: Callable[[], float], connections: Callable[[], float], model: Callable[[], float]
    ) -> None:
        """Ask these whenever the figures are read."""
        self._queue.set_function(queue)
        self._connections.set_function(connections)
        self._model.set_function(model)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request is over."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def photo(self, outcome: str) -> None:
        """A photo was `answered`, is `unsure`, was `unreadable`, was `dropped` with its request, or has `failed`."""
        self._photos.labels(outcome).inc()

    def batch(self, photos: int) -> None:
        """So many went through the network together."""
        self._batches.observe(photos)

    def swapped(self, outcome: str) -> None:
        """A new bundle was `taken` or `refused`."""
        self._swaps.labels(outcome).inc()

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
