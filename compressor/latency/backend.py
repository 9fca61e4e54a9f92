"""The registry of backends that can be timed."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

from compressor.errors import UserError
from compressor.latency.workload import Workload
from compressor.plan import Plan
from compressor.source import Source


class Backend(Protocol):
    """One engine. `step` functions run the workload's unit of work once and return when it is done."""

    name: str

    def build(self, directory: Path, source: Source, plan: Plan, layers: int) -> None:
        """Write a model of this plan with random weights; `layers` is the length of the plan."""

    def prepare(self, directory: Path, workload: Workload, threads: int | None) -> Callable[[], None]:
        """A decode step (tpot) or a prefill (ttft) of a built or exported model."""

    def versions(self) -> dict[str, str]:
        """What the figures depend on."""


_REGISTRY: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    _REGISTRY[backend.name] = backend
    return backend


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent / "backends")]):
        importlib.import_module(f"compressor.latency.backends.{module.name}")


def known() -> list[str]:
    _import_all()
    return sorted(_REGISTRY)


def get(name: str) -> Backend:
    _import_all()
    if name not in _REGISTRY:
        raise UserError(f"there is no backend `{name}`", f"Known: {', '.join(known())}.")
    return _REGISTRY[name]
