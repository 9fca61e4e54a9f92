"""The router of a family of domains: which subnet a prompt goes to, before any layer runs."""

from lathe.artefact.router.router import Route, Router
from lathe.artefact.router.router_file import has_router, read_router, write_router

__all__ = ["Route", "Router", "has_router", "read_router", "write_router"]
