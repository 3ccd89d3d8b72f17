"""Take in the photos of a request, and wait for what the crew says of them: never longer than is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Request

from headstart.modalities.heat import Kind
from headstart.registry import closest
from headstart.serving import answers
from headstart.serving.batching import Crew
from headstart.serving.limits import Limits
from headstart.serving.refusals import Refusal
from headstart.serving.replies import Asked, Heat, Reply
from headstart.serving.swapping import Model, Shelf
from headstart.serving.uploads import Gone, Intake, Upload


class Desk:
    """Takes photos in and waits for what the crew says of them."""

    def __init__(self, shelf: Shelf, crew: Crew, limits: Limits) -> None:
        self._shelf, self._crew, self._limits = shelf, crew, limits
        self._intake = Intake(limits)

    async def predict(self, request: Request, top_k: int) -> bytes:
        """The answer's JSON."""
        until = self._until()
        with self._intake.open() as body:
            uploads = await body.uploads(request.headers, request.receive, until)
            model = self._shelf.current
            asked = Asked([upload.content for upload in uploads], model)
            replies = await self._answer(asked, request, until)
            return answers.answered(uploads, replies, model, top_k)

    async def explain(self, request: Request, label: str | None, drawn: Kind | None) -> tuple[Model, Upload, Reply]:
        """What was asked, and the answer."""
        until = self._until()
        with self._intake.open() as body:
            uploads = await body.uploads(request.headers, request.receive, until)
            if len(uploads) != 1:
                raise Refusal(422, f"there are {len(uploads)} photos in the request", "send one at a time")
            model = self._shelf.current
            wish = Heat(None if label is None else _class(model, label), drawn)
            asked = Asked([uploads[0].content], model, wish)
            (reply,) = await self._answer(asked, request, until)
            return model, uploads[0], reply

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._limits.seconds

    async def _answer(self, asked: Asked, request: Request, until: float) -> Sequence[Reply]:
        """The replies, unless the client leaves or the time is over before; then nothing more is done for it."""
        answer = asyncio.ensure_future(self._crew.answer(asked))
        left = asyncio.ensure_future(_disconnected(request))
        seconds = until - asyncio.get_running_loop().time()
        try:
            await asyncio.wait({answer, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if left.done():
                raise Gone
            raise Refusal(
                504,
                f"there was no answer within {self._limits.seconds:g} s",
                "send fewer photos at a time, or ask later",
            )
        finally:
            answer.cancel()
            left.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _class(model: Model, label: str) -> int:
    classes = model.manifest.classes
    if label not in classes:
        hint = (
            closest(label, list(classes))
            or f"the model knows {', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}"
        )
        raise Refusal(422, "the model has no such class", hint)
    return classes.index(label)
