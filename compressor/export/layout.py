"""The tensors of a subnet: which of a family's are left, and in which shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.model.families import Family


def cut_tensors(family: Family, shape: ModelShape, plan: Plan) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(checkpoint name, shape in the subnet) of every tensor that `plan` leaves, in the model's order.

    A dropped block has no tensors, its norm included.
    """
    yield from family.first_tensors(shape)
    for index, layer in enumerate(plan.layers):
        prefix = family.layer_prefix(index)
        absent = absent_modules(family, layer)
        for name, dims in family.block_tensors(replace(shape, layer=layer)):
            if absent.isdisjoint((name, name.rpartition(".")[0])):
                yield prefix + name, dims
    yield from family.last_tensors(shape)


def absent_modules(family: Family, layer: LayerShape) -> frozenset[str]:
    """Modules and bare tensors (names relative to the layer) of the blocks that `layer` drops."""
    attention = (
        family.attention_norm,
        family.q,
        family.k,
        family.v,
        family.q_norm,
        family.k_norm,
        family.o,
        family.attention_after,
        family.sinks,
    )
    ffn = (
        family.ffn_norm,
        family.router,
        family.gate,
        family.up,
        family.down,
        family.shares,
        family.ffn_after,
    )
    return frozenset((() if layer.kv_heads else attention) + (() if layer.ffn else ffn))
