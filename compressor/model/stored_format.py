"""The formats that `lathe plan` compares: layers as float16, or as an int8 or int4 ONNX graph stores them.

Embedding and head are the same for all choices and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.names import (
    DOWN_PROJ,
    GATE_PROJ,
    K_PROJ,
    Q_NORM,
    Q_PROJ,
    ROUTER,
    SHARE_PROJ,
    UP_PROJ,
    V_PROJ,
)
from lathe.compressor.model.rounding import (
    GROUPS,
    expert_groups,
    groups_for,
    quantize_in_groups,
    quantize_matrix,
)

FLOAT16_BYTES, FLOAT32_BYTES = 2, 4
_QKV = [f"{module}.weight" for module in (Q_PROJ, K_PROJ, V_PROJ)]
_EXPERTS = [f"{module}.weight" for module in (GATE_PROJ, UP_PROJ, DOWN_PROJ)]
_ROUTER = f"{ROUTER}.weight"
_UNQUANTIZED = (_ROUTER, f"{SHARE_PROJ}.weight")


@dataclass(frozen=True)
class Format:
    """A format of decoder layers."""

    bits: int

    def __str__(self) -> str:
        return "float16" if self.bits == 16 else f"int{self.bits}"

    def store(self, layers: Sequence[Weights], dtype: torch.dtype) -> tuple[list[Weights], int]:
        """Returns the layers as an export of a checkpoint in `dtype` has them, and their bytes."""
        stored = [self.store_layer(layer, dtype) for layer in layers]
        return [layer for layer, _ in stored], sum(size for _, size in stored)

    def store_layer(self, layer: Weights, dtype: torch.dtype) -> tuple[Weights, int]:
        """Returns one layer as `store` does."""
        kept = {name: value.to(dtype).float() for name, value in layer.items()}
        return (kept, self.most_bytes([kept])) if self.bits == 16 else quantize_layer(kept, self.bits)

    def most_bytes(self, layers: Sequence[Weights]) -> int:
        """Returns the bytes of the layers with the most scales that they can have, from shapes alone."""
        if self.bits == 16:
            return FLOAT16_BYTES * sum(value.numel() for layer in layers for value in layer.values())
        return sum(_most_bytes(layer, self.bits) for layer in layers)


FLOAT16, INT8, INT4 = Format(16), Format(8), Format(4)


def quantize_layer(weights: Weights, bits: int) -> tuple[dict[str, torch.Tensor], int]:
    """Returns a layer with the values that its int8 or int4 graph has, dequantized, and its bytes there."""
    layer, size = dict(weights), 0
    for names in products_of(weights):
        stack = _stack(weights, names)
        found = quantize_matrix(stack, bits, groups_for(stack.shape[1]))
        layer |= zip(names, found.values.split([len(weights[name]) for name in names]), strict=True)
        size += _stored_bytes(len(found.codes), found.columns, found.group, bits)
    if _ROUTER in weights:
        experts, group = quantize_experts(weights, bits)
        layer |= experts
        size += _expert_bytes(weights, group, bits)
    return layer, size + _unquantized_bytes(weights)


def products_of(weights: Weights) -> Iterator[list[str]]:
    """Yields the matrices that the graph multiplies by, each as the names whose rows it stacks.

    Experts, which have an operator of their own, are left out.
    """
    stacked = _QKV if _QKV[0] in weights and f"{Q_NORM}.weight" not in weights else []
    if stacked:
        yield stacked
    experts = _EXPERTS if _ROUTER in weights else []
    for name, value in weights.items():
        if value.dim() == 2 and name not in (*stacked, *experts, *_UNQUANTIZED):
            yield [name]


def group_of(weights: Weights, names: list[str], bits: int, rule: GroupRule = BY_ERROR) -> int:
    """Returns the group of a stack of matrices in the graph."""
    stack = _stack(weights, names)
    return rule.group(stack, bits, groups_for(stack.shape[1]))


def _stack(weights: Weights, names: list[str]) -> torch.Tensor:
    return torch.cat([weights[name] for name in names]) if len(names) > 1 else weights[names[0]]


def quantize_experts(
    weights: Weights, bits: int, rule: GroupRule = BY_ERROR
) -> tuple[dict[str, torch.Tensor], int]:
    """Quantizes a layer's experts, whose matrices share a group."""
    count = len(weights[_ROUTER])
    gate, up, down = (weights[name] for name in _EXPERTS)
    gate_up = torch.stack([part.unflatten(0, (count, -1)) for part in (gate, up)], 2).flatten(0, 2)
    rows = down.unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)
    groups = expert_groups(gate.shape[1], rows.shape[1])
    group = min(rule.group(matrix, bits, groups) for matrix in (gate_up, rows))
    values = quantize_in_groups(gate_up, bits, group).values.unflatten(0, (count, -1, 2))
    downs = quantize_in_groups(rows, bits, group).values.unflatten(0, (count, -1))
    parts = (values[:, :, 0].flatten(0, 1), values[:, :, 1].flatten(0, 1), downs.transpose(0, 1).flatten(1))
    return dict(zip(_EXPERTS, parts, strict=True)), group


def _most_bytes(weights: Weights, bits: int) -> int:
    size = sum(
        _stored_bytes(len(weights[name]), weights[name].shape[1], GROUPS[-1], bits)
        for names in products_of(weights)
        for name in names
    )
    experts = _expert_bytes(weights, GROUPS[-1], bits) if _ROUTER in weights else 0
    return size + experts + _unquantized_bytes(weights)


def _expert_bytes(weights: Weights, group: int, bits: int) -> int:
    """Returns the bytes of a layer's experts, which are padded with channels of zeros."""
    count, width = weights[_ROUTER].shape
    channels = len(weights[_EXPERTS[0]]) // count
    padding = 2 * count * (-channels % group)
    gate_up = _stored_bytes(2 * count * channels + padding, width, group, bits)
    biases = FLOAT32_BYTES * padding if f"{GATE_PROJ}.bias" in weights else 0
    return gate_up + biases + _stored_bytes(count * width, channels, group, bits)


def _stored_bytes(rows: int, columns: int, group: int, bits: int) -> int:
    groups = -(-columns // group)
    return rows * groups * (group * bits // 8 + FLOAT32_BYTES)


def _unquantized_bytes(weights: Weights) -> int:
    """Returns the bytes of biases, norms and the router, which stay float32."""
    kept = [value for name, value in weights.items() if value.dim() < 2 or name in _UNQUANTIZED]
    return FLOAT32_BYTES * sum(value.numel() for value in kept)
