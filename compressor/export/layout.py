"""The tensors of a subnet: which of a family's are left, and in which shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.model.names import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT_NORM,
    DOWN_PROJ,
    FFN_NORM,
    FFN_OUTPUT_NORM,
    GATE_PROJ,
    K_NORM,
    K_PROJ,
    O_PROJ,
    Q_NORM,
    Q_PROJ,
    ROUTER,
    SHARE_PROJ,
    SINKS,
    UP_PROJ,
    V_PROJ,
    layer_prefix,
)
from lathe.compressor.model.tensor_shapes import block_tensors, first_tensors, last_tensors


def pruned_tensors(shape: ModelShape, plan: Plan) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields (name, shape) of every tensor that `plan` keeps, in the model's order.

    A dropped block has no tensors, its norm included.
    """
    yield from first_tensors(shape)
    for index, layer in enumerate(plan.layers):
        prefix = layer_prefix(index)
        absent = absent_modules(layer)
        for name, dims in block_tensors(replace(shape, layer=layer)):
            if absent.isdisjoint((name, name.rpartition(".")[0])):
                yield prefix + name, dims
    yield from last_tensors(shape)


def absent_modules(layer: LayerShape) -> frozenset[str]:
    """Modules and bare tensors (names relative to the layer) of the blocks that `layer` drops."""
    attention = (
        ATTENTION_NORM,
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        Q_NORM,
        K_NORM,
        O_PROJ,
        ATTENTION_OUTPUT_NORM,
        SINKS,
    )
    ffn = (
        FFN_NORM,
        ROUTER,
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
        SHARE_PROJ,
        FFN_OUTPUT_NORM,
    )
    return frozenset((() if layer.kv_heads else attention) + (() if layer.ffn else ffn))
