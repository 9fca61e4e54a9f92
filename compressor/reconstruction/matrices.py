"""The matrices of a block that a Gauss-Newton step solves for, taken out of it and put back.

Of an FFN of experts the preconditioner has a factor for each expert: of what its output projection reads, and
of the gradients at what its gate and up projections give; what these read is taken as the same for all.

Shapes: E experts, F channels of each, D model width.
"""

from __future__ import annotations

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.names import ROUTER
from lathe.compressor.statistics.gram import Gram, Grams

Matrices = dict[str, torch.Tensor]


class Plain:
    """Of a block without experts: its projections as they are, [out, in]."""

    def __init__(self, runner: BlockRunner, kind: BlockKind) -> None:
        self._runner, self._kind = runner, kind

    def taken(self, block: Weights) -> Matrices:
        """[..., out, in], by name."""
        return {name: block[name] for name in self._runner.projections(self._kind)}

    def put(self, matrices: Weights) -> Matrices:
        """As a block holds them."""
        return dict(matrices)

    def grams(self, matrices: Weights) -> Grams:
        """Of what they read and of the gradients at what they give, of nothing yet."""
        both = {name: self._grams(name, matrix) for name, matrix in matrices.items()}
        return Grams({n: read for n, (read, _) in both.items()}, {n: give for n, (_, give) in both.items()})

    def _grams(self, _name: str, matrix: torch.Tensor) -> tuple[Gram, Gram]:
        give, read = matrix.shape
        return Gram(read), Gram(give)


class Experts(Plain):
    """Of an FFN of experts: matrices of gate and up as [E, F, D], of down as [E, D, F]."""

    def taken(self, block: Weights) -> Matrices:
        experts = len(block[f"{ROUTER}.weight"])
        *inner, down = self._runner.expert_projections()
        found = {name: block[name].unflatten(0, (experts, -1)) for name in inner}
        return {**found, down: block[down].unflatten(1, (experts, -1)).transpose(0, 1).contiguous()}

    def put(self, matrices: Weights) -> Matrices:
        down = self._down
        return {
            n: w.transpose(0, 1).flatten(1) if n == down else w.flatten(0, 1) for n, w in matrices.items()
        }

    def _grams(self, name: str, matrix: torch.Tensor) -> tuple[Gram, Gram]:
        experts, give, read = matrix.shape
        if name == self._down:
            return Gram(experts * read, experts), Gram(give)
        return Gram(read), Gram(experts * give, experts)

    @property
    def _down(self) -> str:
        return self._runner.expert_projections()[-1]


def matrices_of(runner: BlockRunner, kind: BlockKind) -> Plain:
    """Those of a block of this kind."""
    return Experts(runner, kind) if kind == "ffn" and runner.shape.experts else Plain(runner, kind)
