"""Round-to-nearest weight quantization, simulated: what stays of the values, and what storing them takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

_SCALE_BYTES = 2
UNQUANTIZED_BYTES = 2
"""Of a value that is not quantized: norms and biases, as float16."""


@dataclass(frozen=True)
class Format:
    """How the weights of layers are stored. group: columns that share a scale; None: a row."""

    bits: int
    group: int | None = None

    def __str__(self) -> str:
        if self.bits == 16:
            return "float16"
        return f"int{self.bits}" + (f", groups of {self.group}" if self.group else " per channel")

    def store(
        self, layers: Sequence[Mapping[str, torch.Tensor]]
    ) -> tuple[list[Mapping[str, torch.Tensor]], int]:
        """Layers as they come back from storage, and their bytes."""
        if self.bits == 16:
            values = [tensor for layer in layers for tensor in layer.values()]
            return list(layers), UNQUANTIZED_BYTES * sum(tensor.numel() for tensor in values)
        stored = [quantize_layer(layer, self.bits, self.group) for layer in layers]
        return [layer for layer, _ in stored], sum(size for _, size in stored)


FLOAT16, INT8, INT4 = Format(16), Format(8), Format(4, 32)


def round_to_nearest(weight: torch.Tensor, bits: int, group: int | None = None) -> tuple[torch.Tensor, int]:
    """The dequantized matrix, float32, and its stored bytes.

    Every `group` columns of a row (None: the whole row, one output channel) share a float16 scale s.
    Symmetric: w = s q with the value of largest magnitude at q = -2^(bits-1), so that no code is wasted.
    Asymmetric: w = s (q - z) over [min, max] with 0 in it, and z an integer of `bits` bits (Jacob et al.,
    arXiv 1712.05877, Sec. 2.1; packed like this by GPTQ's and AWQ's checkpoints). The one with the lesser
    squared error is taken.

    Args:
        weight: [rows, columns]. A last group that is not full has a scale of its own.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits")
    rows, columns = weight.shape
    group = min(group or columns, columns)
    missing = -columns % group
    last = weight[:, -1:].expand(rows, missing)
    groups = torch.cat([weight, last], 1).float().view(rows, -1, group)
    scales = _SCALE_BYTES * groups.shape[0] * groups.shape[1]
    codes = (weight.numel() * bits + 7) // 8
    zeros = (groups.shape[0] * groups.shape[1] * bits + 7) // 8
    choices = (
        (_symmetric(groups, bits), codes + scales),
        (_asymmetric(groups, bits), codes + scales + zeros),
    )
    found = [(values.reshape(rows, -1)[:, :columns].contiguous(), size) for values, size in choices]
    return min(found, key=lambda item: float((item[0] - weight).square().sum()))


def quantize_layer(
    weights: Mapping[str, torch.Tensor], bits: int, group: int | None = None
) -> tuple[dict[str, torch.Tensor], int]:
    """A layer with its matrices rounded, and its stored bytes; vectors stay as they are."""
    layer, total = {}, 0
    for name, value in weights.items():
        if value.dim() == 2:
            layer[name], size = round_to_nearest(value, bits, group)
        else:
            layer[name], size = value, UNQUANTIZED_BYTES * value.numel()
        total += size
    return layer, total


def _symmetric(groups: torch.Tensor, bits: int) -> torch.Tensor:
    half = 2 ** (bits - 1)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale = _stored(largest / -half)
    return scale * (groups / scale).round().clamp(-half, half - 1)


def _asymmetric(groups: torch.Tensor, bits: int) -> torch.Tensor:
    top = 2**bits - 1
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    high = groups.amax(-1, keepdim=True).clamp(min=0)
    scale = _stored((high - low) / top)
    zero = (-low / scale).round().clamp(0, top)
    return scale * ((groups / scale + zero).round().clamp(0, top) - zero)


def _stored(scale: torch.Tensor) -> torch.Tensor:
    """As float16 keeps it, and never zero."""
    kept = scale.half().float()
    return torch.where(kept == 0, torch.full_like(kept, 2.0**-24), kept)
