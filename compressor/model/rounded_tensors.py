"""A layer's tensors after rounding, by name: quantized matrices, and other tensors that went with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lathe.compressor.model.rounding import QuantizedMatrix

Rounded = dict[str, torch.Tensor | QuantizedMatrix]
_CODES, _SCALES, _FACTS = ":codes", ":scales", ":facts"


def dequantized(rounded: Mapping[str, torch.Tensor | QuantizedMatrix]) -> dict[str, torch.Tensor]:
    """Returns the values of all tensors, float32."""
    return {n: v.values if isinstance(v, QuantizedMatrix) else v for n, v in rounded.items()}


def to_tensors(rounded: Rounded) -> dict[str, torch.Tensor]:
    """Returns everything as tensors, to be kept in a file."""
    kept: dict[str, torch.Tensor] = {}
    for name, value in rounded.items():
        if isinstance(value, QuantizedMatrix):
            facts = [value.group, value.bits, value.columns, value.error]
            kept[name + _CODES], kept[name + _SCALES] = value.codes, value.scales
            kept[name + _FACTS] = torch.tensor(facts, dtype=torch.float64)
        else:
            kept[name] = value
    return kept


def from_tensors(kept: Mapping[str, torch.Tensor]) -> Rounded:
    """Returns the inverse of `to_tensors`."""
    found: Rounded = {}
    for key, value in kept.items():
        name, colon, _ = key.partition(":")
        if not colon:
            found[name] = value
        elif key == name + _CODES:
            group, bits, columns, error = kept[name + _FACTS].tolist()
            found[name] = QuantizedMatrix(
                value, kept[name + _SCALES], int(group), int(bits), int(columns), error
            )
    return found
