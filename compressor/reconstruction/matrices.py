"""The matrices of a block that a Gauss-Newton step solves for: split off the block, and joined to it again.

The preconditioner of an FFN of experts has a factor for each expert: of the inputs of its output projection,
and of the gradients at the outputs of its gate and up projections. The inputs of these are taken as the same
for all experts.

Shapes: E experts, F channels of each, D model width.
"""

from __future__ import annotations

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.names import ROUTER
from lathe.compressor.statistics.gram import Gram, Grams

Matrices = dict[str, torch.Tensor]


class PlainMatrices:
    """The matrices of a block without experts: its projections as they are, [out, in]."""

    def __init__(self, runner: BlockRunner, kind: BlockKind) -> None:
        self._runner, self._kind = runner, kind

    def split(self, block: Weights) -> Matrices:
        """Returns the matrices of a block by name, [..., out, in]."""
        return {name: block[name] for name in self._runner.projections(self._kind)}

    def join(self, matrices: Weights) -> Matrices:
        """Returns matrices in the layout in which a block holds them."""
        return dict(matrices)

    def grams(self, matrices: Weights) -> Grams:
        """Creates empty accumulators for matrices' inputs and for the gradients at their outputs."""
        pairs = {name: self._grams(name, matrix) for name, matrix in matrices.items()}
        return Grams(
            {n: x for n, (x, _) in pairs.items()}, {n: gradient for n, (_, gradient) in pairs.items()}
        )

    def _grams(self, _name: str, matrix: torch.Tensor) -> tuple[Gram, Gram]:
        rows, columns = matrix.shape
        return Gram(columns), Gram(rows)


class ExpertMatrices(PlainMatrices):
    """The matrices of an FFN of experts: gate and up as [E, F, D], down as [E, D, F]."""

    def split(self, block: Weights) -> Matrices:
        """Returns the matrices of a block by name, [E, out, in]."""
        experts = len(block[f"{ROUTER}.weight"])
        *inner, down = self._runner.expert_projections()
        found = {name: block[name].unflatten(0, (experts, -1)) for name in inner}
        return {**found, down: block[down].unflatten(1, (experts, -1)).transpose(0, 1).contiguous()}

    def join(self, matrices: Weights) -> Matrices:
        """Returns matrices in the layout in which a block holds them."""
        down = self._down
        return {
            n: w.transpose(0, 1).flatten(1) if n == down else w.flatten(0, 1) for n, w in matrices.items()
        }

    def _grams(self, name: str, matrix: torch.Tensor) -> tuple[Gram, Gram]:
        experts, rows, columns = matrix.shape
        if name == self._down:
            return Gram(experts * columns, experts), Gram(rows)
        return Gram(columns), Gram(experts * rows, experts)

    @property
    def _down(self) -> str:
        return self._runner.expert_projections()[-1]


def matrices_of(runner: BlockRunner, kind: BlockKind) -> PlainMatrices:
    """Returns the view of the matrices that fits a block of this kind."""
    if kind == "ffn" and runner.shape.experts:
        return ExpertMatrices(runner, kind)
    return PlainMatrices(runner, kind)
