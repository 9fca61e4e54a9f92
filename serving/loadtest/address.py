"""Reads the address of a server's API as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

import httpx

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.load import Endpoint

PATHS: dict[Endpoint, str] = {"chat": "/chat/completions", "completions": "/completions"}
VERSION = re.compile(r"v\d+[a-z]*\d*")
LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


@dataclass(frozen=True)
class Address:
    """The address of an API, in parts.

    Attributes:
        root: scheme, host and path, up to the version.
        versions: the versions that may follow, the likeliest first.
        query: the text behind a question mark.
        endpoint: the endpoint that the address names; None: it names none.
    """

    root: str
    versions: tuple[str, ...]
    query: str
    endpoint: Endpoint | None


def read_address(text: str) -> Address:
    """Reads an address with or without a version (`/v1`, `/api/v3`), slashes or an endpoint at its end.

    Raises:
        UserError: it is no address of a server.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise UserError(f"{text} is not the address of a server: {error}", _remedy()) from None
    if not url.host:
        raise UserError(f"{text} is not the address of a server", _remedy())
    path, endpoint = url.path.rstrip("/"), None
    for name, ending in (*PATHS.items(), (None, "/models")):
        if path.endswith(ending):
            path, endpoint = path.removesuffix(ending).rstrip("/"), name
            break
    base, _, last = path.rpartition("/")
    query = url.query.decode()
    versions: tuple[str, ...]
    if VERSION.fullmatch(last):
        path, versions = base, (f"/{last}",)
    elif not path:
        versions = ("/v1",)
    else:  # the path of a proxy, or all of the API's own
        whole = endpoint is not None or bool(query) or any(map(VERSION.fullmatch, path.split("/")))
        versions = ("", "/v1") if whole else ("/v1", "")
    root = str(url.copy_with(path=path or "/", query=None, fragment=None)).rstrip("/")
    return Address(root, versions, query, endpoint)


def is_loopback(url: str) -> bool:
    """Returns whether an address is of this machine, to which no proxy leads."""
    return LOOPBACK.fullmatch(httpx.URL(url).host) is not None


def proxy_of(url: str) -> str | None:
    """Returns the proxy that the environment names for this address, without a password."""
    target = httpx.URL(url)
    proxies = getproxies()
    named = proxies.get(target.scheme) or proxies.get("all")
    if not named or is_loopback(url) or proxy_bypass(target.host):
        return None
    proxy = httpx.URL(named if "://" in named else f"http://{named}")
    return str(proxy.copy_with(username=None, password=None))


def _remedy() -> str:
    return "Write it like http://HOST:8000 or https://HOST/api/v3."
