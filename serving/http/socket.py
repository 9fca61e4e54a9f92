"""The socket that a server listens on."""

from __future__ import annotations

import socket

from lathe.artefact.errors import UserError

GRACEFUL_SHUTDOWN_S = 5
SEND_BUFFER = 256 * 1024
"""Bytes of one connection's send buffer, which the kernel would let grow to megabytes for a slow reader."""


def listen(host: str, port: int) -> socket.socket:
    """Returns a bound socket; port 0 picks a free one.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from None
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    return UserError(f"cannot listen on {host}:{port}: {error.strerror}", "Choose another --host or --port.")


def url_of(listener: socket.socket) -> str:
    """Returns the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
