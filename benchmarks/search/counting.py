"""How many tokens a search runs through the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.checkpoint import Checkpoint


@dataclass
class Count:
    """Tokens times the blocks that they ran through, and those of these that derivatives were taken of."""

    blocks: int = 0
    differentiated: int = 0


class CountedRunner(BlockRunner):
    """A runner that counts; those of single layers add to the same count."""

    def __init__(self, source: Checkpoint) -> None:
        super().__init__(source)
        self._count = Count()

    @property
    def tokens(self) -> tuple[float, float]:
        """Returns the tokens so far, and how many of them derivatives went back through.

        One that passes half of the model's blocks counts as half a token.
        """
        count, blocks = self._count, 2 * self.shape.num_layers
        return count.blocks / blocks, count.differentiated / blocks

    def finish(
        self, kind: BlockKind, weights: Weights, state: torch.Tensor, context: torch.Tensor
    ) -> torch.Tensor:
        """Returns the state after a block, and counts its tokens."""
        after, tokens = super().finish(kind, weights, state, context), state.shape[0] * state.shape[1]
        self._count.blocks += tokens
        self._count.differentiated += tokens * after.requires_grad
        return after
