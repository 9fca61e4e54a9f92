"""Embedding and head in few bits: the head rounded with compensation, from what it reads in a model.

A tied embedding is the head's table. One of its own is rounded to nearest, as no product follows it.

Shapes: V vocabulary, D model width, B windows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.compute.precision import products
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.names import EMBEDDING, LM_HEAD
from lathe.compressor.model.rounding import QuantizedMatrix, groups_for
from lathe.compressor.reconstruction.compensated_rounding import round_compensated
from lathe.compressor.statistics.gram import Gram

EXACT_BITS = 8
"""Bits in which rounding to nearest loses nothing that compensation could win."""
_ROWS = 2**14
"""Rows of a table that are rounded at a time; they do not depend on each other."""
_SAMPLE = 2**12
"""Rows that a group is chosen by."""
_BATCH = 4
"""Windows per batch."""
Tables = dict[str, QuantizedMatrix]


@dataclass(frozen=True)
class RoundedTable:
    """An embedding's table that stays in codes and scales."""

    matrix: QuantizedMatrix

    def __getitem__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the rows of tokens [...], as values [..., D]."""
        return self.matrix[tokens.flatten()].values.unflatten(0, tokens.shape)


def round_head(
    model: LayeredModel,
    windows_BT: torch.Tensor,
    bits: int,
    store: ArrayStore | None = None,
    bfloat16: bool = False,
    groups: GroupRule = BY_ERROR,
) -> Tables:
    """Returns the tables of embedding and head as codes and scales, by checkpoint name.

    Args:
        model: What the head reads is measured in it.
        windows_BT: Tokens to measure it on.
        bits: Of a code.
        store: Keeps hidden states.
        bfloat16: Whether they may come from bfloat16 products, where those are faster.
        groups: Gives each table its group.
    """
    source = model.source
    embedding = f"{EMBEDDING}.weight"
    head = embedding if source.shape.tied_embeddings else f"{LM_HEAD}.weight"
    tables: Tables = {}
    for name in dict.fromkeys([embedding, head]):
        table_VD = source.tensor(name)
        if name == head and bits < EXACT_BITS:
            gram_DD = _gram(model, windows_BT, store or ArrayStore(), bfloat16)
            tables[name] = _compensated(table_VD, gram_DD, bits, groups)
        else:
            tables[name] = groups.quantize(table_VD, bits, groups_for(table_VD.shape[1], 0.0))
    return tables


def _compensated(
    table_VD: torch.Tensor, gram_DD: torch.Tensor, bits: int, groups: GroupRule
) -> QuantizedMatrix:
    """Returns a table, rounded with compensation in the group that some of its rows would have."""
    sample = table_VD[:: -(-len(table_VD) // _SAMPLE)]
    group = groups.group(sample, bits, groups_for(table_VD.shape[1], 0.0))
    parts = table_VD.split(_ROWS)
    return QuantizedMatrix.stacked([round_compensated(part, gram_DD, bits, group) for part in parts])


@torch.inference_mode()
def _gram(model: LayeredModel, windows_BT: torch.Tensor, store: ArrayStore, bfloat16: bool) -> torch.Tensor:
    """Returns X^T X / n of what the head reads, [D, D]."""
    parts = torch.arange(len(windows_BT)).split(_BATCH)
    hidden: ArrayLike = model.embedded(windows_BT, store, parts)
    for index, layer in enumerate(model.layers):
        with products(store.device, bfloat16):
            hidden = store.mapped(hidden, parts, partial(model.runner.at(index).layer, layer))
    gram = Gram(model.runner.shape.hidden_size)
    for part in parts:
        gram.add_batch(model.head.normed(hidden[part]))
    return gram.finalize()
