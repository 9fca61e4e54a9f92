"""The playground's files and routes. It has no secrets: without a key it shows a field to enter one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lathe.serving.http.errors import ApiError, on_api_error, on_http_error
from lathe.serving.http.forwarded_prefix import forwarded_prefix
from lathe.serving.http.trailing_slashes import relative_slashes
from lathe.serving.playground.upstream import Upstream

INDEX, SETUP, FOLDER = "/", "/playground/setup", "/playground/"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HERE = b'="playground/'
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class Setup:
    """The settings of the page.

    Attributes:
        model: the model's name.
        chat: whether the model has a chat template.
        target_ms: the target per output token, if there is one.
        context: the longest sequence in tokens.
        compare: whether there is a second server to compare with.
    """

    model: str
    chat: bool
    target_ms: float | None
    context: int
    compare: bool


class Playground:
    """The routes to be added to a server's own."""

    def __init__(self, setup: Setup, upstream: Upstream | None = None) -> None:
        self._setup = setup
        self._upstream = upstream

    @cached_property
    def routes(self) -> list[Route]:
        static = [Route(path, _file(name)) for path, name in self._files.items()]
        others = self._upstream.routes if self._upstream else []
        return [*static, Route(SETUP, self._tell), *others]

    @cached_property
    def app(self) -> Starlette:
        """The routes by themselves, for a server that is not ours."""
        app = Starlette(
            routes=self.routes, exception_handlers={ApiError: on_api_error, HTTPException: on_http_error}
        )
        relative_slashes(app.router)
        return app

    @property
    def open_paths(self) -> frozenset[str]:
        """Paths that a browser asks for before it can send a key: the files, and nothing else."""
        return frozenset(self._files)

    @cached_property
    def _files(self) -> dict[str, str]:
        found = (file.name for file in files(__package__).joinpath("static").iterdir())
        names = [name for name in found if name[name.rfind(".") :] in TYPES]
        return {INDEX if name == "index.html" else FOLDER + name: name for name in names}

    async def _tell(self, _: Request) -> Response:
        return JSONResponse(asdict(self._setup))


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = files(__package__).joinpath("static", name).read_bytes()
    kind = TYPES[name[name.rfind(".") :]]
    is_page = name.endswith(".html")

    async def show(request: Request) -> Response:
        prefix = forwarded_prefix(request) if is_page else ""
        shown = content.replace(HERE, f'="{prefix}{FOLDER}'.encode()) if prefix else content
        return Response(shown, headers={**HEADERS, "content-type": kind})

    return show
