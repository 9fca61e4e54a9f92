"""Answers paths that no route has: 404, or a redirect where only the slash at the end is wrong.

Starlette's own redirect repeats scheme, host and path as they arrived here, which is wrong behind a proxy
that
ends TLS or removes a path prefix. A relative redirect is right behind any proxy.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Receive, Scope, Send


def relative_slashes(router: Router) -> None:
    """Makes `router` redirect `/path/` to `/path` by a relative address, with 307, and nothing else."""
    router.redirect_slashes = False
    router.default = _without_slash(router)


def _without_slash(router: Router) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removesuffix("/")
        shorter = {**scope, "path": path}
        wrong_by_more = path == scope["path"] or path.endswith("/")
        if wrong_by_more or all(route.matches(shorter)[0] is Match.NONE for route in router.routes):
            raise HTTPException(404)
        await to_the_shorter(scope)(scope, receive, send)

    return answer


def to_the_shorter(scope: Scope) -> RedirectResponse:
    """Returns a redirect from `/path/` to `/path`."""
    query = scope["query_string"].decode("latin-1")
    name = scope["path"].removesuffix("/").rpartition("/")[2]
    return RedirectResponse(f"../{name}{'?' if query else ''}{query}")
