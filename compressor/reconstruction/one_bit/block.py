"""Blocks of a decoder, binarized: the method of a rounding pass that rounds to one bit."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.reconstruction.error_feedback import inverse_factor, with_inputs
from lathe.compressor.reconstruction.one_bit.matrix import binarize_matrix
from lathe.compressor.reconstruction.one_bit.registry import Binarization
from lathe.compressor.reconstruction.one_bit.storage import Storage
from lathe.compressor.reconstruction.rounded_block import AS_STORED, Grams


@dataclass
class OneBitBlocks:
    """Binarizes blocks, each matrix by itself, and counts what that takes.

    Attributes:
        binarization: Makes the code of a block of columns.
        dtype: What the values are stored in.
        storage: What all matrices so far take.
        errors: The norm of every matrix's change over the norm that it had.
    """

    binarization: Binarization
    dtype: torch.dtype = torch.float32
    storage: Storage = field(default_factory=Storage)
    errors: list[float] = field(default_factory=list)

    def __call__(
        self, weights: Weights, grams: Grams, solved: Weights = AS_STORED
    ) -> dict[str, torch.Tensor]:
        """Returns a block's matrices by name, as `BlockRounding` has it."""
        factors: dict[int, torch.Tensor] = {}
        made: dict[str, torch.Tensor] = {}
        for name, gram in grams.items():
            if id(gram) not in factors:
                factors[id(gram)] = inverse_factor(with_inputs(gram))
            weight = weights[name]
            found = binarize_matrix(solved.get(name, weight), factors[id(gram)], self.binarization)
            made[name] = found.values.to(self.dtype).float()
            self.storage += found.storage
            self.errors.append(float((made[name] - weight).norm() / weight.norm().clamp_min(1e-30)))
        return made
