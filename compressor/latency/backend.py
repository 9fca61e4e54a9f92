"""The registry of backends that can be timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.artefact.registry import Registry
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint


class LatencyBackend(Protocol):
    """An engine that can be timed. `export` is the exporter whose model it runs."""

    name: str
    export: str

    def build(self, directory: Path, source: Checkpoint, plan: Plan, layers: int) -> None:
        """Writes a model of this plan with random weights; `layers` is the length of the plan."""

    def prepare(self, directory: Path, workload: Workload, threads: int | None) -> Callable[[], None]:
        """Returns a function that does one decode step (tpot) or one prefill (ttft) of a model.

        The function returns when the step is done.
        """

    def versions(self) -> dict[str, str]:
        """Returns what the figures depend on."""


def with_int8_cache(name: str) -> str:
    """Returns the name of the backend that runs the same graphs with an int8 KV cache."""
    return f"{name}-kv8"


def has_int8_cache(name: str) -> bool:
    """Returns whether a backend runs graphs with an int8 KV cache.

    Raises:
        UserError: there is no such backend.
    """
    return bool(getattr(backends.get(name), "int8_cache", False))


def versions_here(backend: LatencyBackend) -> dict[str, str]:
    """Returns what a backend's figures depend on; empty if the engine is on other machines only."""
    try:
        return backend.versions()
    except (UserError, ImportError):
        return {}


backends: Registry[LatencyBackend] = Registry(
    "backend",
    "lathe.compressor.latency.backends",
    "lathe.backends",
    lambda _name, value: hasattr(value, "prepare"),
)
"""Every engine that can be timed, by name."""
