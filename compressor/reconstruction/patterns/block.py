"""Blocks of a decoder, pruned to a pattern: the method of a rounding pass that removes weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.patterns.registry import PatternMethod
from lathe.compressor.reconstruction.rounded_block import AS_STORED, Grams


@dataclass(frozen=True)
class PatternBlocks:
    """Prunes blocks, matrices that read the same together.

    Attributes:
        pattern: The pattern.
        method: Prunes a matrix.
        dtype: What the values are stored in.
    """

    pattern: Pattern
    method: PatternMethod
    dtype: torch.dtype = torch.float32

    def __call__(
        self, weights: Weights, grams: Grams, solved: Weights = AS_STORED
    ) -> dict[str, torch.Tensor]:
        """Returns a block's matrices by name, as `BlockRounding` has it."""
        alike: dict[int, list[str]] = {}
        for name, gram in grams.items():
            alike.setdefault(id(gram), []).append(name)
        made: dict[str, torch.Tensor] = {}
        wanted = {**weights, **solved} if self.method.corrects else weights
        for names in alike.values():
            matrices = [wanted[name] for name in names]
            pruned = self.method.prune(torch.cat(matrices), grams[names[0]], self.pattern)
            parts = pruned.to(self.dtype).float().split([len(matrix) for matrix in matrices])
            made |= zip(names, parts, strict=True)
        return made
