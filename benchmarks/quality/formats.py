"""Weights of layers in a few bits, simulated: the product's rounding at any bit width and group.

A scale takes two bytes (it has bfloat16's digits), and so does a value that is not quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.rounding import quantize_in_groups

_VALUE_BYTES = 2


@dataclass(frozen=True)
class Format:
    """How the weights of layers are stored. group: columns that share a scale; None: a row."""

    bits: int
    group: int | None = None

    def __str__(self) -> str:
        if self.bits == 16:
            return "float16"
        return f"int{self.bits}" + (f", groups of {self.group}" if self.group else " per channel")

    def store(self, layers: Sequence[Weights]) -> tuple[list[Weights], int]:
        """Returns the layers as they come back from storage, and their bytes."""
        if self.bits == 16:
            values = [tensor for layer in layers for tensor in layer.values()]
            return list(layers), _VALUE_BYTES * sum(tensor.numel() for tensor in values)
        stored = [self._store_layer(layer) for layer in layers]
        return [layer for layer, _ in stored], sum(size for _, size in stored)

    def _store_layer(self, weights: Weights) -> tuple[dict[str, torch.Tensor], int]:
        layer, total = dict(weights), 0
        for name, value in weights.items():
            size = _VALUE_BYTES * value.numel()
            if value.dim() == 2:
                layer[name], size = self._store_matrix(value)
            total += size
        return layer, total

    def _store_matrix(self, weight: torch.Tensor) -> tuple[torch.Tensor, int]:
        found = quantize_in_groups(weight, self.bits, min(self.group or weight.shape[1], weight.shape[1]))
        return found.values, (weight.numel() * self.bits + 7) // 8 + _VALUE_BYTES * found.scales.numel()


FLOAT16, INT8, INT4 = Format(16), Format(8), Format(4, 32)
NARROWER = [Format(bits, group) for bits in range(8, 1, -1) for group in (32, 64, 128, None)]


def widest(layers: Sequence[Weights], budget: float) -> tuple[Format, list[Weights], int] | None:
    """Layers in the most bits, eight at most, and the smallest groups whose bytes fit a budget.

    None where two bits do not fit.
    """
    columns = max(value.shape[-1] for layer in layers for value in layer.values() if value.dim() == 2)
    for form in NARROWER:
        if form.group and form.group >= columns:
            continue
        stored, size = form.store(layers)
        if size <= budget:
            return form, stored, size
    return None
