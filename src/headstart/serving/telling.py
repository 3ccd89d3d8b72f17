"""Tell what happens to whoever listens, without ever waiting for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headstart.events import Event, Note

KEPT = 1000  # events that wait for a slow listener; of more, the oldest are dropped
_PATIENCE = 2.0  # seconds that the end waits for a listener to hear the last ones
_NAME = "headstart-tells"
Listener = Callable[[Event], None]


@contextmanager
def telling(listener: Listener | None) -> Iterator[Listener | None]:
    """Gives a function that passes events on to the listener, from a thread of its own, and returns at once.

    A listener may write to a pipe that nobody reads, or to a terminal that is paused, and a service must not stop
    for that. Events that it did not come to hear are counted, and it is told how many they were. What the listener
    raises is raised when it is next told something, or at the end.
    """
    if listener is None:
        yield None
        return
    teller = _Teller(listener)
    try:
        yield teller.tell
    finally:
        teller.end()


def anybody_stuck() -> bool:
    """Whether a listener of a `telling` that has ended still holds its thread: Python could not end by itself."""
    return any(thread.name == _NAME for thread in threading.enumerate())


class _Teller:
    """Events on their way to a listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._waiting: deque[Event] = deque()
        self._dropped = 0
        self._ending = False
        self._problem: BaseException | None = None
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=_NAME, daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Keep an event for the listener."""
        with self._change:
            self._raise()
            if len(self._waiting) == KEPT:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(event)
            self._change.notify()

    def end(self) -> None:
        """Wait a moment for the listener to hear the rest."""
        with self._change:
            self._ending = True
            self._change.notify()
        self._thread.join(_PATIENCE)
        self._raise()

    def _raise(self) -> None:
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def _work(self) -> None:
        while (events := self._next()) is not None:
            try:
                for event in events:
                    self._listener(event)
            except BaseException as problem:  # noqa: BLE001  whoever tells is to know
                self._problem = problem

    def _next(self) -> list[Event] | None:
        """The next event, behind a word about those that were dropped before it; None at the end."""
        with self._change:
            while not self._waiting:
                if self._ending:
                    return None
                self._change.wait()
            dropped, self._dropped = self._dropped, 0
            told: list[Event] = [self._waiting.popleft()]
        if dropped:
            told.insert(0, Note(text=f"{dropped} messages are left out here: they came faster than they were read"))
        return told
