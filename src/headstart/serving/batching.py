"""Bring photos of many requests through decoding and the network, in a bounded queue and with a few threads.

A thread decodes while photos wait and too few are decoded; else it takes those that are decoded through the network
together. So nothing ever waits for company, batches grow with the load alone, and one huge photo keeps one thread busy.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import UInt8

from headstart.modalities.modality import Undecodable
from headstart.serving.metrics import Figures
from headstart.serving.refusals import busy
from headstart.serving.replies import Asked, Reply, Unanswered, answers, explained

_SMOOTH = 0.05  # weight of the newest photo in the average of what one takes
FAILED = "the model failed on this photo"
_WAY_OUT = " (see --max-pixels)"  # from too large a photo, for the command line; who asks over HTTP has none
Tell = Callable[[str], None]


@dataclass(slots=True, eq=False)
class _Photo:
    asked: Asked
    place: int
    done: Callable[[], object]
    picture: UInt8[np.ndarray, "size size 3"] | None = None
    busy: float = 0.0  # seconds that threads have spent on it


class Crew:
    """The threads, and what waits for them."""

    def __init__(self, *, workers: int, queue: int, batch: int, seconds: float, figures: Figures, tell: Tell) -> None:
        """Start them.

        Args:
            workers: threads.
            queue: photos that may wait.
            batch: photos that go through the network together at most.
            seconds: within which a photo must come to its turn, or is not accepted.
            figures: are told of photos and batches.
            tell: is told what fails, from any thread.
        """
        self._workers, self._most, self._batch, self._patience = workers, queue, batch, seconds
        self._figures, self._tell = figures, tell
        self._waiting: deque[_Photo] = deque()
        self._decoded: deque[_Photo] = deque()
        self._computing = 0
        self._pace = 0.0  # seconds of a thread that a photo takes, smoothed; 0: not known yet
        self._closing = False
        self._change = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"headstart-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def waiting(self) -> int:
        """How many photos wait, decoded or not."""
        return len(self._waiting) + len(self._decoded)

    async def answer(self, asked: Asked) -> Sequence[Reply]:
        """A reply for each photo, in their order. To cancel it drops what has not begun.

        Raises:
            Refusal: 503, because too many photos wait already.
        """
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            if not over.done():
                over.set_result(None)

        self._accept(asked, partial(loop.call_soon_threadsafe, done))
        try:
            await over
        finally:
            asked.gone = True
        return [asked.replies[place] for place in range(len(asked.contents))]

    def close(self) -> None:
        """Let the threads finish what waits, and end them."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _accept(self, asked: Asked, done: Callable[[], object]) -> None:
        count = len(asked.contents)
        with self._change:
            ahead = self.waiting() * self._pace / self._workers
            if self._closing:
                raise busy("the service is stopping")
            if self.waiting() + count > self._most:
                self._clear_gone()
            if self.waiting() + count > self._most:
                raise busy(f"{self.waiting()} photos wait already", seconds=ahead)
            if ahead > self._patience:
                raise busy("the photos that wait already will take too long", seconds=ahead - self._patience)
            self._waiting.extend(_Photo(asked, place, done) for place in range(count))
            self._change.notify(count)

    # ---- in the threads

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], None] | None:
        """What this thread does next; None: to end."""
        with self._change:
            while True:
                self._drop(self._waiting)
                self._drop(self._decoded)
                if self._decoded and self._may_compute() and (len(self._decoded) >= self._batch or not self._waiting):
                    photos = self._together()
                    self._computing += 1
                    return lambda: self._compute(photos)
                # What is decoded lies in memory: with few threads in the network, the others must not run far ahead.
                if self._waiting and len(self._decoded) < self._batch * self._workers:
                    photo = self._waiting.popleft()
                    return lambda: self._decode(photo)
                if self._closing and not self._waiting and not self._decoded:
                    self._change.notify_all()
                    return None
                self._change.wait()

    def _may_compute(self) -> bool:
        return self._computing < max(1, self._decoded[0].asked.model.predictor.graph.concurrency)

    def _together(self) -> list[_Photo]:
        """Those that go through the network together: of one model, and heat by itself, since it takes long."""
        photos = [self._decoded.popleft()]
        first = photos[0].asked
        while (
            first.heat is None
            and self._decoded
            and len(photos) < self._batch
            and self._decoded[0].asked.model is first.model
            and self._decoded[0].asked.heat is None
        ):
            photos.append(self._decoded.popleft())
        return photos

    def _drop(self, photos: deque[_Photo]) -> None:
        while photos and photos[0].asked.gone:
            photos.popleft()
            self._figures.photo("dropped")

    def _clear_gone(self) -> None:
        """Drop also those that are not at their turn yet: they take the place of others."""
        for photos in (self._waiting, self._decoded):
            here = [photo for photo in photos if not photo.asked.gone]
            for _ in range(len(photos) - len(here)):
                self._figures.photo("dropped")
            photos.clear()
            photos.extend(here)

    def _decode(self, photo: _Photo) -> None:
        began = time.perf_counter()
        asked = photo.asked
        try:
            photo.picture = asked.model.decode(asked.contents[photo.place])
        except Undecodable as problem:
            self._end(photo, Unanswered(str(problem).removesuffix(_WAY_OUT)), "unreadable")
            return
        except Exception:  # noqa: BLE001  whatever a library does with one photo, the others are answered
            self._tell(f"a photo could not be decoded:\n{traceback.format_exc()}")
            self._end(photo, Unanswered(FAILED, ours=True), "failed")
            return
        photo.busy = time.perf_counter() - began
        with self._change:
            self._decoded.append(photo)
            self._change.notify()

    def _compute(self, photos: list[_Photo]) -> None:
        began = time.perf_counter()
        first = photos[0].asked
        replies: Sequence[Reply]
        try:
            pictures = np.stack([photo.picture for photo in photos if photo.picture is not None])
            replies = answers(first.model, pictures) if first.heat is None else [explained(first, pictures[0])]
        except Exception:  # noqa: BLE001  likewise
            self._tell(f"the model failed:\n{traceback.format_exc()}")
            replies = [Unanswered(FAILED, ours=True)] * len(photos)
        took = (time.perf_counter() - began) / len(photos)
        with self._change:
            self._computing -= 1
            self._change.notify_all()  # one may compute, and others decode again
            if first.heat is None:
                for photo in photos:
                    self._pace += (photo.busy + took - self._pace) * (_SMOOTH if self._pace else 1.0)
        self._figures.batch(len(photos))
        for photo, reply in zip(photos, replies, strict=True):
            self._end(photo, reply, _outcome(reply))

    def _end(self, photo: _Photo, reply: Reply, outcome: str) -> None:
        self._figures.photo(outcome)
        asked = photo.asked
        with self._change:
            asked.replies[photo.place] = reply
            over = len(asked.replies) == len(asked.contents)
        if over and not asked.gone:
            photo.done()


def _outcome(reply: Reply) -> str:
    if isinstance(reply, Unanswered):
        return "failed"
    return "unsure" if reply.unsure else "answered"
