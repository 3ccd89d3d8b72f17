"""Answer each route of the service."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from headstart.registry import closest
from headstart.serving import answers, pages
from headstart.serving.batching import Crew
from headstart.serving.description import (
    BINARY,
    DESCRIPTION,
    TITLE,
    TOKEN_WANTED,
    VERSION,
    body_of,
    described,
    responses,
)
from headstart.serving.desk import Desk
from headstart.serving.gate import Gate, Phase, Tell
from headstart.serving.limits import Limits
from headstart.serving.metrics import CONTENT_TYPE, Figures
from headstart.serving.refusals import JSON, Refusal, busy
from headstart.serving.security import OPEN, Access
from headstart.serving.swapping import Shelf
from headstart.serving.uploads import Gone

CLIENT_GONE = 499  # as other servers count it
TOP = 5  # classes in an answer, where nothing else is asked for
_ANY_PHOTO = (400, 401, 403, 408, 413, 415, 500, 503, 504)  # how a request with photos can be refused
TopK = Annotated[int, Query(ge=1, le=100_000, description="How many of the most probable classes to name.")]
Label = Annotated[str | None, Query(max_length=1024, description="Class to explain; the answer where none is named.")]
As = Annotated[Literal["png", "jpeg", "json"], Query(description="A picture, or the heat in numbers.")]


def application(
    *, shelf: Shelf, crew: Crew, access: Access, limits: Limits, figures: Figures, phase: Phase, tell: Tell
) -> Gate:
    """The service as an ASGI application."""
    # Its own pages of the description would load scripts from elsewhere; and who puts a slash too many would be sent on
    # to http://, with the token, also where a proxy in front of the service speaks HTTPS.
    app = FastAPI(
        title=TITLE, description=DESCRIPTION, version=VERSION, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    _add_questions(app, Desk(shelf, crew, limits))
    _add_state(app, shelf, limits, figures, phase)
    shown = _add_pages(app)
    app.openapi = lambda: described(app)  # type: ignore[method-assign]
    for kind in (Refusal, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(Gone, _nobody)
    app.add_exception_handler(Exception, _failed)
    return Gate(
        app,
        access=access,
        limits=limits,
        figures=figures,
        phase=phase,
        routes=[str(getattr(route, "path", "")) for route in app.routes],
        opened=[*OPEN, *shown],
        pages=[*shown, "/docs"],
        tell=tell,
    )


def _add_questions(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/predict",
        summary="Name what photos show",
        response_model=list[answers.Answered | answers.Unread],
        responses=responses(*_ANY_PHOTO) | responses(422, model=answers.NoneRead),
        openapi_extra=body_of(several=True) | TOKEN_WANTED,
    )
    async def predict(request: Request, top_k: TopK = TOP) -> Response:
        """One answer a photo, in their order; one that cannot be read has its reason, where another could be."""
        return Response(await desk.predict(request, top_k), media_type=JSON)

    @app.post(
        "/explain",
        summary="Show which places of a photo speak for a class",
        response_class=Response,
        responses=responses(*_ANY_PHOTO)
        | responses(422, model=answers.NoneRead)
        | {
            200: {
                "model": answers.Explained,
                "content": {kind: {"schema": BINARY} for kind in ("image/png", "image/jpeg")},
            }
        },
        openapi_extra=body_of(several=False) | TOKEN_WANTED,
    )
    async def explain(request: Request, label: Label = None, format: As = "png") -> Response:
        """The photo with a heat map over it, or the heat of each place in numbers."""
        model, upload, reply = await desk.explain(request, label, None if format == "json" else format)
        numbers = answers.explained(upload, reply, model)
        drawn = getattr(reply, "drawn", None)
        if drawn is not None:
            return Response(drawn, media_type=f"image/{format}")
        return Response(json.dumps(numbers, ensure_ascii=False), media_type=JSON)


def _add_state(app: FastAPI, shelf: Shelf, limits: Limits, figures: Figures, phase: Phase) -> None:
    @app.get(
        "/health", summary="Whether the process runs", response_model=answers.Alive, responses=responses(400, 403, 500)
    )
    async def health() -> Response:
        return Response(b'{"alive": true}', media_type=JSON)

    @app.get(
        "/ready",
        summary="Whether requests are taken",
        response_model=answers.Ready,
        responses=responses(400, 403, 500, 503),
    )
    async def ready() -> Response:
        if phase.stopping:
            raise busy("the service is stopping")
        return Response(b'{"ready": true}', media_type=JSON)

    @app.get(
        "/model",
        summary="What the model is",
        response_model=answers.Card,
        responses=responses(400, 401, 403, 500),
        openapi_extra=TOKEN_WANTED,
    )
    async def model() -> Response:
        return Response(json.dumps(answers.card(shelf.current, limits), ensure_ascii=False), media_type=JSON)

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses=responses(400, 401, 403, 500) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        openapi_extra=TOKEN_WANTED,
    )
    async def metrics() -> Response:
        return Response(figures.text(), media_type=CONTENT_TYPE)


def _add_pages(app: FastAPI) -> list[str]:
    """The paths of the page's files."""
    found = pages.files()

    def add(path: str, file: pages.File) -> None:
        async def page() -> Response:
            return Response(file.content, media_type=file.kind)

        app.add_api_route(path, page, include_in_schema=False)

    async def docs() -> Response:
        return Response(pages.described(app.openapi()), media_type="text/html; charset=utf-8")

    for path, file in found.items():
        add(path, file)
    app.add_api_route("/docs", docs, include_in_schema=False)
    return list(found)


async def _refused(request: Request, problem: Exception) -> Response:
    """Every refusal in one form, also those of the framework."""
    if isinstance(problem, RequestValidationError):
        problem = _bad_parameter(problem)
    elif isinstance(problem, HTTPException):
        problem = _strange(problem, request)
    assert isinstance(problem, Refusal)
    return Response(problem.body(), problem.status, dict(problem.headers), JSON)


async def _failed(request: Request, problem: Exception) -> Response:
    """What nobody thought of; it is raised again after this, and the gate prints it."""
    refusal = Refusal(500, "the service failed unexpectedly", "look at what it printed, and report it")
    return Response(refusal.body(), refusal.status, media_type=JSON)


async def _nobody(request: Request, problem: Exception) -> Response:
    """For the figures: the client has gone, and nobody reads it."""
    return Response(status_code=CLIENT_GONE)


def _bad_parameter(problem: RequestValidationError) -> Refusal:
    first = problem.errors()[0]
    name = str(first["loc"][-1])
    return Refusal(422, f"{name} is not usable: {first['msg'].lower()}", "see /docs")


def _strange(problem: HTTPException, request: Request) -> Refusal:
    headers = {name.lower(): value for name, value in (problem.headers or {}).items()}
    if problem.status_code == 404:
        paths = [str(getattr(route, "path", "")) for route in request.app.routes]
        return Refusal(404, "there is nothing here", closest(request.scope["path"][:80], paths) or "see /docs", headers)
    if problem.status_code == 405:
        if headers.get("allow") == "GET":
            headers["allow"] = "GET, HEAD"  # see the gate
        return Refusal(405, "this path does not take this method", f"use {headers.get('allow', 'another')}", headers)
    return Refusal(problem.status_code, "the request cannot be used", "see /docs", headers)
