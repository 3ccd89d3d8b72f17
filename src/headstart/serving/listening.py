"""Take an address, or say in one sentence why it cannot be had."""

from __future__ import annotations

import errno
import socket
import sys

from headstart.errors import BadServer


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address, and does not listen yet.

    Raises:
        BadServer: the address is not this machine's, or is in use.
    """
    if not 0 <= port <= 65535:
        raise BadServer(f"port {port} does not exist", fix="use one from 1024 to 65535, or 0 for any that is free")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise BadServer(f"host {host!r} is not known here", fix="use 127.0.0.1, or 0.0.0.0 for all addresses") from None
    bound = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two services share the address
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as problem:
        bound.close()
        raise _unusable(host, port, problem) from None
    return bound


def _unusable(host: str, port: int, problem: OSError) -> BadServer:
    if problem.errno == errno.EADDRINUSE:
        return BadServer(f"port {port} of {host} is in use", fix="take another with --port, or 0 for any that is free")
    if problem.errno == errno.EACCES:
        return BadServer(f"port {port} may only be used by the system", fix="take one from 1024 on")
    return BadServer(
        f"address {host!r} cannot be listened on ({problem.strerror})",
        fix="use 127.0.0.1, or 0.0.0.0 for all addresses",
    )


def address_of(bound: socket.socket) -> str:
    """What a browser is given to come here."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
