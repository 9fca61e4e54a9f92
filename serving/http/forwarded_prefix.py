"""The path under which a proxy exposes this server, if the proxy forwards it."""

from __future__ import annotations

import re

from starlette.requests import Request

PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def forwarded_prefix(request: Request) -> str:
    """Returns the prefix without a slash at its end; empty where there is none.

    Addresses relative to a request's own need it only where that may be shown without the slash at the end.
    """
    told = request.headers.get("x-forwarded-prefix") or str(request.scope.get("root_path", ""))
    return told.rstrip("/") if PATH.fullmatch(told.rstrip("/")) else ""
