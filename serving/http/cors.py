"""Allows web pages of other origins to use this server from a browser; by default none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from lathe.artefact.errors import UserError

ANY = "*"
READABLE_HEADERS = ("retry-after", "x-should-retry", "x-lathe-subnet", "x-lathe-subnet-reason")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?")


def check_origins(origins: Iterable[str]) -> None:
    """Checks that each origin is one that a browser may send.

    Raises:
        UserError: one is not.
    """
    for origin in origins:
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"--allowed-origins {origin} is not an origin",
                f"Give it as a browser sends it, https://chat.example.com:8443 without a path, or {ANY}.",
            )


def cross_origin(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Wraps an application so that pages of these origins may use it, too.

    A browser asks first, by OPTIONS and without a key; that request is answered here, before any key is
    required.
    Keys travel in a header that the page sets; cookies are not accepted.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=READABLE_HEADERS,
    )
