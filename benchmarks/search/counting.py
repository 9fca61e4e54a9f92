"""How many tokens a search runs through the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.checkpoint import Checkpoint


@dataclass
class Count:
    """Tokens times the blocks that they ran through."""

    blocks: int = 0


class CountedRunner(BlockRunner):
    """A runner that counts; those of single layers add to the same count."""

    def __init__(self, source: Checkpoint) -> None:
        super().__init__(source)
        self._count = Count()

    @property
    def forward_tokens(self) -> float:
        """Returns the tokens so far: one that passes half of the model's blocks counts as half a token."""
        return self._count.blocks / (2 * self.shape.num_layers)

    def finish(
        self, kind: BlockKind, weights: Weights, state: torch.Tensor, context: torch.Tensor
    ) -> torch.Tensor:
        """Returns the state after a block, and counts its tokens."""
        self._count.blocks += state.shape[0] * state.shape[1]
        return super().finish(kind, weights, state, context)
