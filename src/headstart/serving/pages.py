"""Give browsers the page and the description for people: files of our own, without a request to anybody else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class File:
    """What is sent for a path."""

    content: bytes
    kind: str


def files() -> dict[str, File]:
    """The page's files by the paths that they are asked for: `/` for index.html, `/NAME` for the others."""
    found = sorted(path for path in FOLDER.iterdir() if path.suffix in _TYPES)
    return {
        "/" if path.name == "index.html" else f"/{path.name}": File(path.read_bytes(), _TYPES[path.suffix])
        for path in found
    }


def described(description: Mapping[str, Any]) -> str:
    """A page for people of what an OpenAPI description says."""
    info = description["info"]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(info["title"])}</title>',
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">',
        f"<h1>{html.escape(info['title'])}</h1><p>{html.escape(info['description'])}</p>",
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. To try it: <a href="/">the page</a>.</p>',
    ]
    for path, methods in description["paths"].items():
        parts += [_operation(method, path, operation) for method, operation in methods.items()]
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [
        f"<h2>{method.upper()} {html.escape(path)}</h2><p><b>{html.escape(operation['summary'])}</b></p>",
        f"<p>{html.escape(operation.get('description', ''))}</p>",
    ]
    rows = [(f"?{each['name']}=", each.get("description", "")) for each in operation.get("parameters", ())]
    rows += [(kind, "body") for kind in operation.get("requestBody", {}).get("content", ())]
    rows += [(status, each["description"]) for status, each in operation["responses"].items()]
    cells = "".join(f"<tr><td><code>{html.escape(a)}</code><td>{html.escape(b)}" for a, b in rows)
    return f"{''.join(parts)}<table>{cells}</table>"
