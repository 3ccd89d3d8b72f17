"""Decide who may ask: which address is listened on, which token opens it, and which pages of the web are let in."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from urllib.parse import urlsplit

from headstart.errors import BadServer
from headstart.serving.refusals import Refusal

SHORTEST = 16  # characters of a token: fewer can be tried out
OPEN = frozenset({"/health", "/ready", "/openapi.json", "/docs"})  # say nothing of the model; the page is open as well
_HERE = ("localhost", "127.0.0.1", "[::1]")
_EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
}
ANSWER = {**_EVERYWHERE, "content-security-policy": "default-src 'none'; frame-ancestors 'none'"}
PAGE = {
    **_EVERYWHERE,
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who is let in."""

    token: str | None
    hosts: frozenset[str] | None  # names, without ports, by which the service may be called; None: any
    origins: frozenset[str]  # of pages elsewhere that may ask it

    @classmethod
    def of(cls, host: str, token: str | None, environment: Mapping[str, str]) -> Access:
        """What these options and this environment allow.

        Raises:
            BadServer: others can reach the address and there is no token, or the token cannot be one.
        """
        token = token if token is not None else _given(environment)
        if token is not None:
            _check_token(token)
        elif not is_loopback(host):
            raise BadServer(
                f"address {host!r} can be reached by others, and there is no token",
                fix=f"set HEADSTART_TOKEN, for example to {secrets.token_urlsafe(24)}, or leave --host out",
            )
        named = frozenset(environment.get("HEADSTART_SERVE_HOSTS", "").lower().replace(",", " ").split())
        origins = frozenset(environment.get("HEADSTART_SERVE_ORIGINS", "").lower().replace(",", " ").split())
        known = frozenset({*_HERE, host.lower(), f"[{host.lower()}]"} if is_loopback(host) else ())
        return cls(token=token, hosts=(known | named) or None, origins=origins)

    def check(self, method: str, path: str, headers: Mapping[bytes, bytes], *, opened: bool) -> None:
        """Let this request pass.

        Args:
            method: its method.
            path: what it asks for.
            headers: its headers, by names in lower case.
            opened: whether the path needs no token.

        Raises:
            Refusal: 400 where another name than the service's is called, 403 for a page from elsewhere, 401 without
                the token.
        """
        self._check_host(headers.get(b"host", b"").decode("latin-1"))
        self._check_origin(headers)
        if self.token is None or opened or method == "OPTIONS":
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not compare_digest(given.strip(), self.token.encode()):
            raise Refusal(
                401,
                "the token is missing" if not given else "the token is not the right one",
                "send the header Authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )

    def _check_host(self, host: str) -> None:
        # A page on the web can name its own host as 127.0.0.1; its requests still carry the name that it was called by.
        if self.hosts is not None and name_of(host) not in self.hosts:
            raise Refusal(
                400, "the service is not known by this host name", "call it by the address that it printed at its start"
            )

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        # Only browsers send it. A page from elsewhere could not read the answer, but could keep the service busy.
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if not origin or origin in self.origins:
            return
        if urlsplit_host(origin) != headers.get(b"host", b"").decode("latin-1").lower():
            raise Refusal(
                403, "pages from elsewhere may not ask this service", "name the origin in HEADSTART_SERVE_ORIGINS"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def name_of(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else host.strip().lower()


def urlsplit_host(origin: str) -> str:
    """The host and port of an origin; empty where it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _given(environment: Mapping[str, str]) -> str | None:
    """The token of the environment, or of the file that it names, as orchestrators hand secrets over."""
    file = environment.get("HEADSTART_TOKEN_FILE")
    if environment.get("HEADSTART_TOKEN") or not file:
        return environment.get("HEADSTART_TOKEN") or None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not text"
        raise BadServer(
            f"the token cannot be read from {file!r}: {reason}",
            fix="let HEADSTART_TOKEN_FILE name a file that holds it",
        ) from None


def _check_token(token: str) -> None:
    if len(token) < SHORTEST:
        raise BadServer(
            f"the token has {len(token)} characters, and can be guessed",
            fix=f"take {SHORTEST} or more, for example {secrets.token_urlsafe(24)}",
        )
    if not all("!" <= letter <= "~" for letter in token):
        raise BadServer(
            "the token has a letter that a header cannot carry", fix="take letters, digits and signs without blanks"
        )
