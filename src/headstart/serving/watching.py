"""Look for a new bundle while the service runs, and put it in the old one's place."""

from __future__ import annotations

import asyncio
import contextlib

from headstart.errors import HeadstartError
from headstart.serving.gate import Tell
from headstart.serving.metrics import Figures
from headstart.serving.swapping import Shelf

_WATCHED = 1.0  # seconds between two looks at the bundle's folder


async def watch(shelf: Shelf, asked: asyncio.Event, figures: Figures, tell: Tell) -> None:
    """Swap at a signal, and when the folder has changed and then stayed the same from one look to the next."""
    before = shelf.mark()
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCHED):
                await asked.wait()
        now = await asyncio.to_thread(shelf.mark)
        if asked.is_set() or (now == before and await asyncio.to_thread(shelf.changed)):
            asked.clear()
            await _swap(shelf, figures, tell)
        before = now


async def _swap(shelf: Shelf, figures: Figures, tell: Tell) -> None:
    try:
        model = await asyncio.to_thread(shelf.swap)
    except HeadstartError as problem:
        figures.swapped("refused")
        tell(f"the new bundle is refused, and the old one goes on answering: {problem.what} ({problem.fix})")
    else:
        figures.swapped("taken")
        tell(f"a new bundle answers from here on, made {model.manifest.created}")
