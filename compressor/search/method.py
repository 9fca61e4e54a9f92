"""The registry of search methods."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.errors import UserError
from compressor.forward import BlockRunner, Weights
from compressor.plan import Plan
from compressor.progress import Progress
from compressor.search.fitness import Head
from compressor.search.space import Constraint, Space
from compressor.search.trace import Trace
from compressor.source import Source
from compressor.statistics import LayerStatistics
from compressor.surgery import LayerOrder, Selection


@dataclass(frozen=True)
class Problem:
    """What every search is given.

    windows: [n, T] tokens to judge candidates on. layers: dense weights. dampings: (attention, FFN) of
    each layer, chosen on held-out text. evaluations: how many candidates may be judged.
    """

    source: Source
    runner: BlockRunner
    head: Head
    space: Space
    layers: list[Weights]
    embedding: torch.Tensor
    windows: torch.Tensor
    statistics: list[LayerStatistics]
    orders: list[LayerOrder]
    dampings: list[tuple[float, float]]
    constraints: list[Constraint]
    trace: Trace
    progress: Progress
    evaluations: int
    seed: int

    def allows(self, plan: Plan) -> bool:
        return all(c.allows(plan) for c in self.constraints)


@dataclass(frozen=True)
class Found:
    """The winner: its plan, which heads and channels it keeps, its fitness, candidates judged."""

    plan: Plan
    selections: list[Selection]
    fitness: float
    evaluations: int


@dataclass(frozen=True)
class Method:
    """A search with the order and the final reform that belong to it."""

    name: str
    order: str
    reform: str
    search: Callable[[Problem], Found]
    default_evaluations: int


_REGISTRY: dict[str, Method] = {}


def register(method: Method) -> Method:
    _REGISTRY[method.name] = method
    return method


def _import_all() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent / "methods")]):
        importlib.import_module(f"compressor.search.methods.{module.name}")


def known() -> list[str]:
    _import_all()
    return sorted(_REGISTRY)


def get(name: str) -> Method:
    _import_all()
    if name not in _REGISTRY:
        raise UserError(f"there is no method `{name}`", f"Known: {', '.join(known())}.")
    return _REGISTRY[name]
