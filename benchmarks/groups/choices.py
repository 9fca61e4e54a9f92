"""Which group each matrix has: one size for all, by the rule of FineQuant, or by the product's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.groups import adaptive_group
from lathe.compressor.model.rounding import groups_for, quantize_matrix

SIZES = (256, 128, 64, 32, 16)
FIXED, ADAPTIVE, AUTO = "fixed", "adaptive", "auto"
_SCALE_BITS = 16
"""Scales have the digits of bfloat16."""


@dataclass(frozen=True)
class Choice:
    """Groups of all matrices of a model's layers.

    Attributes:
        rule: "fixed", "adaptive" or "auto".
        setting: The size of fixed groups, "row" for all columns, or the threshold of an adaptive rule.
        groups: By name, layer by layer.
    """

    rule: str
    setting: str
    groups: tuple[dict[str, int], ...]

    @property
    def name(self) -> str:
        """What tables call it."""
        return {FIXED: self.setting, AUTO: AUTO}.get(self.rule, f"{ADAPTIVE}, alpha {self.setting}")

    def counts(self) -> dict[str, int]:
        """Returns how many matrices have which group, the largest group first."""
        found = [group for layer in self.groups for group in layer.values()]
        return {str(group): found.count(group) for group in sorted(set(found), reverse=True)}


def matrices_of(layer: Weights) -> dict[str, torch.Tensor]:
    """Returns the matrices of a layer, which are all rounded, by name."""
    return {name: value for name, value in layer.items() if value.dim() == 2}


def fixed(layers: Sequence[Weights], size: int | None) -> Choice:
    """Returns the choice of one size for all matrices; None: of whole rows. No group is longer than a row."""
    groups = [
        {name: min(size or w.shape[1], w.shape[1]) for name, w in matrices_of(layer).items()}
        for layer in layers
    ]
    return Choice(FIXED, str(size or "row"), tuple(groups))


def adaptive(layers: Sequence[Weights], alpha: float) -> Choice:
    """Returns the choice by FineQuant's rule, from whole rows down to the smallest size."""
    groups = [
        {name: adaptive_group(w, _ladder(w.shape[1]), alpha) for name, w in matrices_of(layer).items()}
        for layer in layers
    ]
    return Choice(ADAPTIVE, f"{alpha:g}", tuple(groups))


def automatic(layers: Sequence[Weights], bits: int) -> Choice:
    """Returns the choice of the product's rule, which rounds a matrix to see what a group costs it."""
    groups = [
        {
            name: quantize_matrix(w, bits, groups_for(w.shape[1])).group
            for name, w in matrices_of(layer).items()
        }
        for layer in layers
    ]
    return Choice(AUTO, "", tuple(groups))


def effective_bits(layers: Sequence[Weights], choice: Choice, bits: int) -> float:
    """Returns the mean bits of a weight with its share of a scale."""
    stored = weights = 0
    for layer, groups in zip(layers, choice.groups, strict=True):
        for name, group in groups.items():
            rows, columns = layer[name].shape
            weights += rows * columns
            stored += rows * (columns * bits + _SCALE_BITS * -(-columns // group))
    return stored / weights


def _ladder(columns: int) -> list[int]:
    return [columns, *(size for size in SIZES if size < columns)]
