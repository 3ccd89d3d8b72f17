"""Read the photos out of a request's body, as it arrives and within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from headstart.serving.limits import Limits
from headstart.serving.refusals import Refusal, busy

FIELD = "file"
_LONGEST_NAME = 1024  # characters of a file's name that are given back
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Gone(Exception):
    """The client left before its request was whole."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it was sent: its bytes are not looked at yet, and its name is only ever given back."""

    name: str | None
    content: bytes


class Intake:
    """Reads bodies, and knows how many bytes all requests together hold."""

    def __init__(self, limits: Limits) -> None:
        self.held = 0
        self._limits = limits

    @contextmanager
    def open(self) -> Iterator[Body]:
        """A body to read; its bytes are counted until the request is over."""
        body = Body(self, self._limits)
        try:
            yield body
        finally:
            self.held -= body.bytes


class Body:
    """The body of one request."""

    def __init__(self, intake: Intake, limits: Limits) -> None:
        self.bytes = 0
        self._intake, self._limits = intake, limits

    async def uploads(self, headers: Mapping[str, str], receive: Receive, until: float) -> list[Upload]:
        """Its files: the parts of a form that are called `file`, or the whole of another body.

        `until` by the clock of the running loop.

        Raises:
            Gone: the client left.
            Refusal: 400, 408, 413, 415 or 503, with the reason.
        """
        kind, options = parse_options_header(headers.get("content-type", ""))
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limits.body:
            raise self._too_large()
        chunks = self._chunks(receive)
        try:
            async with asyncio.timeout_at(until):
                if kind == b"multipart/form-data":
                    return await self._form(options.get(b"boundary", b""), chunks)
                if kind in (b"", b"application/octet-stream") or kind.startswith(b"image/"):
                    content = b"".join([chunk async for chunk in chunks])
                    if not content:
                        raise Refusal(
                            422, "there is no photo in the request", "send its bytes, or a form with a field file"
                        )
                    return [Upload(None, content)]
        except TimeoutError:
            raise Refusal(
                408, f"the request did not arrive within {self._limits.seconds:g} s", "send smaller photos, or fewer"
            ) from None
        raise Refusal(
            415,
            "the body is neither a form nor a photo",
            "send multipart/form-data with a field file, or a photo's bytes as application/octet-stream",
        )

    async def _chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            chunk = message.get("body", b"")
            self.bytes += len(chunk)
            self._intake.held += len(chunk)
            if self.bytes > self._limits.body:
                raise self._too_large()
            if self._intake.held > self._limits.held:
                raise busy("the requests that arrive at the moment fill the memory")
            if chunk:
                yield chunk
            if not message.get("more_body", False):
                return

    async def _form(self, boundary: bytes, chunks: AsyncIterator[bytes]) -> list[Upload]:
        form = _Form(self._limits.files)
        try:
            if not boundary:
                raise FormParserError("no boundary")
            parser = MultipartParser(boundary, form.callbacks())
            async for chunk in chunks:
                parser.write(chunk)
            parser.finalize()
        except FormParserError:
            raise Refusal(400, "the form is damaged", "send it as a client library makes it") from None
        if not form.ended:
            raise Refusal(400, "the form ends early", "send it as a client library makes it")
        if not form.uploads:
            raise Refusal(422, "there is no photo in the form", f"send each in a field that is called {FIELD}")
        return form.uploads

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"the request is larger than {self._limits.body} bytes", "send fewer photos at a time, or smaller ones"
        )


class _Form:
    """Takes the parser's pieces together; parts of other names are passed over."""

    def __init__(self, most: int) -> None:
        self.uploads: list[Upload] = []
        self.ended = False
        self._most = most
        self._begin()

    def callbacks(self) -> Any:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_begin": self._next_header,
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_header_end": self._header,
            "on_headers_finished": self._headers,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._over,
        }

    def _begin(self) -> None:
        self._disposition = b""
        self._name: str | None = None
        self._wanted = False
        self._pieces: list[bytes] = []
        self._next_header()

    def _next_header(self) -> None:
        self._header_field = self._header_value = b""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header_field += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header(self) -> None:
        if self._header_field.lower() == b"content-disposition":
            self._disposition = self._header_value

    def _headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._wanted = options.get(b"name") == FIELD.encode()
        if self._wanted and len(self.uploads) == self._most:
            raise Refusal(413, f"there are more than {self._most} photos in the request", "send fewer at a time")
        if b"filename" in options:
            self._name = options[b"filename"].decode("utf-8", "replace")[:_LONGEST_NAME]

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self._pieces.append(data[start:end])

    def _end(self) -> None:
        if self._wanted:
            self.uploads.append(Upload(self._name, b"".join(self._pieces)))
            self._pieces = []

    def _over(self) -> None:
        self.ended = True
