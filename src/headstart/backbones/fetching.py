"""Load a backbone and tell, while its weights are downloaded, how far that is."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from queue import SimpleQueue

from headstart.backbones.backbone import Backbone, OnProgress
from headstart.events import Event, Progress


def fetched(load: Callable[[OnProgress], Backbone]) -> Generator[Event, None, Backbone]:
    """The backbone that `load` gives, which is told whom to tell. Leaving early stops the download.

    Raises:
        HeadstartError: as `load`.
    """
    told: SimpleQueue[tuple[int, int | None] | None] = SimpleQueue()
    left = False

    def tell(there: int, of: int | None) -> None:
        if left:
            raise CancelledError
        told.put((there, of))

    with ThreadPoolExecutor(1, thread_name_prefix="backbone") as pool:
        loading = pool.submit(load, tell)
        loading.add_done_callback(lambda _: told.put(None))
        try:
            while (now := told.get()) is not None:
                there, total = now
                yield Progress(what="MB of weights", done=there >> 20, total=(total or there) >> 20)
        finally:
            left = True
        return loading.result()
