"""The first layer's input: tokens from a table, scaled or with learned positions.

Shapes: V vocabulary, D model width, B windows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from lathe.compressor.model.checkpoint import Checkpoint, Table
from lathe.compressor.model.names import POSITIONS


class Embedding(Protocol):
    """Computes the first layer's input for tokens [B, T]; a plain table [V, D] is an embedding, too."""

    def __getitem__(self, tokens_BT: torch.Tensor, /) -> torch.Tensor: ...


def with_table(embedding: Embedding, table_VD: Embedding) -> Embedding:
    """Returns an embedding with another table of tokens."""
    if isinstance(embedding, (ScaledEmbedding, PositionedEmbedding)):
        return replace(embedding, table=table_VD)
    return table_VD


@dataclass(frozen=True)
class ScaledEmbedding:
    """Tokens from a table [V, D], times `scale`."""

    table: Embedding
    scale: float

    def __getitem__(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return self.table[tokens_BT] * self.scale


@dataclass(frozen=True)
class PositionedEmbedding:
    """Tokens and learned positions. table: [V, D]. positions: one row for each."""

    table: Embedding
    positions: torch.Tensor

    def __getitem__(self, tokens_BT: torch.Tensor, /) -> torch.Tensor:
        return self.after(tokens_BT, 0)

    def after(self, tokens_BT: torch.Tensor, start: int) -> torch.Tensor:
        """Returns the first layer's input for tokens that begin at a position."""
        return self.table[tokens_BT] + self.positions[start : start + tokens_BT.shape[-1]]


def embed(embedding: Embedding, tokens_BT: torch.Tensor, start: int) -> torch.Tensor:
    """Returns the first layer's input for tokens that begin at a position."""
    if isinstance(embedding, PositionedEmbedding):
        return embedding.after(tokens_BT, start)
    return embedding[tokens_BT]


def embedding(source: Checkpoint, table: torch.Tensor | Table) -> Embedding:
    """The embedding of a dense model whose table of tokens is given."""
    if source.config.get("scaled_embedding"):
        return ScaledEmbedding(table, source.shape.hidden_size**0.5)
    if not source.shape.learned_positions:
        return table
    positions = source.tensor(f"{POSITIONS}.weight")
    return PositionedEmbedding(table, positions.to(table.device))
