"""Gather what a running service has to tell until it can be shown."""

from __future__ import annotations

import asyncio

_GATHERED = 0.1  # seconds for which lines are gathered: to stop the loop for each of them would cost more


class Lines:
    """Lines that are told in the loop and shown outside of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: list[str] = []
        self._there = asyncio.Event()
        self._over = False

    def tell(self, line: str) -> None:
        """Keep a line. Any thread may."""
        self._lines.append(line)
        if not self._there.is_set():  # one more wake-up than are needed does no harm
            self._loop.call_soon_threadsafe(self._there.set)

    def end(self) -> None:
        """There will be no more."""
        self._over = True
        self._there.set()

    async def next(self) -> list[str] | None:
        """Those since the last time, as soon as there are any; None at the end."""
        await self._there.wait()
        if not self._over:
            await asyncio.sleep(_GATHERED)
        self._there.clear()
        told, self._lines = self._lines, []
        if self._over:
            self._there.set()
        return told if told or not self._over else None
