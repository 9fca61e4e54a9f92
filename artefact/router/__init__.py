"""The router of a family of domains: which subnet a prompt goes to, before any layer runs."""

from lathe.artefact.router.router import Route, Router
from lathe.artefact.router.router_file import read_router, write_router

__all__ = ["Route", "Router", "read_router", "write_router"]
