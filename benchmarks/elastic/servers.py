"""The memory of a server with all subnets of a family, beside one with the widest alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from lathe.artefact.family import Family
from lathe.serving.loadtest.memory import process_tree
from lathe.serving.loadtest.servers import served

_ANSWERS, _PROMPT, _TOKENS = 4, "The weather today is " * 8, 48


def memory_of_servers(family: Family) -> dict[str, Any]:
    """Returns the proportional set sizes of both servers after each subnet has answered some requests.

    Raises:
        UserError: one of them cannot be served.
        httpx.HTTPError: a request fails.
    """
    widest = family.plans[0]
    alone = _pss(family.directory(widest), [""])
    together = _pss(family.path, [f":{plan.name}" for plan in family.plans])
    return {"widest_pss_bytes": alone, "family_pss_bytes": together, "ratio": together / alone}


def _pss(directory: Path, subnets: Sequence[str]) -> int:
    """Serves a directory, asks each of its subnets, and returns the bytes of the server's processes."""
    with served(directory) as server:
        for subnet in subnets:
            body = {"model": server.model + subnet, "prompt": _PROMPT, "max_tokens": _TOKENS}
            for _ in range(_ANSWERS):
                httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status()
        return sum(process.memory_full_info().pss for process in process_tree(server.pid))
