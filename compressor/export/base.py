"""What every exporter is given, and the registry that finds one by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from compressor.errors import UserError
from compressor.plan import Plan
from compressor.source import Source


@dataclass(frozen=True)
class Export:
    """One subnet to write. `tensor` gives a cut tensor (the plan's shape), float32, by checkpoint name."""

    source: Source
    plan: Plan
    tensor: Callable[[str], torch.Tensor]

    def stored(self, name: str) -> torch.Tensor:
        """A cut tensor in `source.dtype`: the values every export must agree on."""
        return self.tensor(name).to(self.source.dtype)


Exporter = Callable[[Path, Export], None]
"""Writes its files into an artefact directory.

Raises:
    UserError: the model needs something that the format does not have, or the disk refuses.
"""

_REGISTRY: dict[str, Exporter] = {}


def register(name: str) -> Callable[[Exporter], Exporter]:
    """Decorator: make an exporter known under `name`."""

    def add(function: Exporter) -> Exporter:
        _REGISTRY[name] = function
        return function

    return add


def known() -> list[str]:
    _import_all()
    return sorted(_REGISTRY)


def exporter(name: str) -> Exporter:
    """The exporter called `name`.

    Raises:
        UserError: there is none.
    """
    _import_all()
    if name not in _REGISTRY:
        raise UserError(f"there is no exporter `{name}`", f"Known: {', '.join(known())}.")
    return _REGISTRY[name]


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], "compressor.export."):
        importlib.import_module(module.name)
