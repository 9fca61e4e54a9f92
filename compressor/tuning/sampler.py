"""The registry of samplers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lathe.artefact.registry import Registry
from lathe.compressor.tuning.search import Search


@dataclass(frozen=True)
class Sampler:
    """A way to choose points.

    Attributes:
        search: Runs trials as long as `Search.more` says so.
        needs: The module that it is made of.
    """

    search: Callable[[Search], None]
    needs: str = "optuna"


samplers: Registry[Sampler] = Registry(
    "sampler",
    "lathe.compressor.tuning.samplers",
    "lathe.samplers",
    lambda _name, value: isinstance(value, Sampler),
)
"""Every sampler by name."""
