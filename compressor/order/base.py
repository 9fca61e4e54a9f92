"""The registry of orders."""

from __future__ import annotations

from collections.abc import Callable

from compressor.errors import UserError
from compressor.families import Family
from compressor.forward import Weights
from compressor.plan import ModelShape
from compressor.statistics import LayerStatistics
from compressor.surgery import LayerOrder

Order = Callable[[Family, ModelShape, Weights, LayerStatistics], LayerOrder]
_REGISTRY: dict[str, Order] = {}


def register(name: str) -> Callable[[Order], Order]:
    def decorate(order: Order) -> Order:
        _REGISTRY[name] = order
        return order

    return decorate


def known() -> list[str]:
    return sorted(_REGISTRY)


def get(name: str) -> Order:
    if name not in _REGISTRY:
        raise UserError(f"there is no order `{name}`", f"Known: {', '.join(known())}.")
    return _REGISTRY[name]
