"""Describe to programs what can be asked: bodies that are taken, and every status that can come back."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from headstart.serving.answers import Refused

TITLE = "headstart"
VERSION = "1"  # of what can be asked, not of the program
DESCRIPTION = (
    "Names what photos show. A service with a token wants the header Authorization: Bearer TOKEN for every route but "
    "/health and /ready. Whatever is refused is refused as {error, hint}."
)
_REASONS = {
    400: "The request is damaged, or calls the service by a host name that is not its own.",
    401: "The token is missing or wrong.",
    403: "A page from elsewhere may not ask.",
    408: "The request did not arrive in time.",
    413: "Too many bytes or photos.",
    415: "Neither a form nor a photo.",
    422: "No photo in the request can be used, or a parameter cannot.",
    500: "The service is at fault; it has printed why.",
    503: "Too much waits already, or the service is stopping; Retry-After says when to come again.",
    504: "There was no answer in time.",
}
TOKEN_WANTED: dict[str, Any] = {"security": [{"token": []}, {}]}  # none, where the service has none
BINARY = {"type": "string", "format": "binary"}
_RAW = ("application/octet-stream", "image/jpeg", "image/png", "image/webp")


def responses(*statuses: int, model: type[BaseModel] = Refused) -> dict[int | str, dict[str, Any]]:
    """How each of these refusals looks."""
    return {status: {"model": model, "description": _REASONS[status]} for status in statuses}


def body_of(*, several: bool) -> dict[str, Any]:
    """A form with a field `file`, or the bytes of one photo."""
    files = {"type": "array", "items": BINARY, "minItems": 1} if several else BINARY
    form = {"type": "object", "properties": {"file": files}, "required": ["file"]}
    content = {"multipart/form-data": {"schema": form}} | {kind: {"schema": BINARY} for kind in _RAW}
    return {"requestBody": {"required": True, "content": content}}


def described(app: FastAPI) -> dict[str, Any]:
    """The whole description, as OpenAPI has it; made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=TITLE, version=VERSION, description=DESCRIPTION, routes=app.routes)
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = made
    return app.openapi_schema
