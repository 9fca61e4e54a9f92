"""Re-solving all projections of a block at once, after its output projection: one damped Gauss-Newton step.

A block maps its input x to y(theta; x), theta its weight matrices. With y ~ y(theta0) + J d the best d is
a linear least-squares problem,

    min_d  sum_t ||J_t d - (target_t - y_t)||^2 / n + ||d||^2_damping

solved in `conjugate.py`. No loss of the model, no labels.

Of an FFN of experts, all are solved for together, and the router is left as it is: what it chooses depends on
none of their matrices, so that the block is smooth in them. The preconditioner has a factor for each expert:
of what its output projection reads, and of the gradients at what its gate and up projections give; what these
read is taken as the same for all.

Shapes: E experts, F channels of each, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from compressor.forward import BlockRunner, Weights
from compressor.reform.conjugate import Factors, Parts, add, factors_of, iterates, small_step
from compressor.room import Room, Rows
from compressor.statistics.collect import batches
from compressor.statistics.gram import Gram

_ITERATIONS = 4
_DAMPING = 1e-2
_FACTOR_BATCHES = 2
_PATIENCE = 2


def refine_block(
    runner: BlockRunner, kind: str, block: Weights, inputs: Rows, targets: Rows,
    heldout: torch.Tensor, iterations: int = _ITERATIONS,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """The block with every projection adjusted, or as it was where that errs less on held-out windows.

    Args:
        kind: "attention" or "ffn". inputs, targets: [B, T, ...] states before and after the block.
        heldout: [B] bool.
    """
    made = ExpertStep if kind == "ffn" and runner.shape.experts else BlockStep
    step = made(runner, kind, block, inputs, targets, heldout)
    with torch.enable_grad():
        best = min(iterates(step, iterations, _PATIENCE), key=lambda found: found[0])
    return step.block(best[1][0])


class BlockStep:
    """The least-squares problem of one block around its present weights; arguments as `refine_block`."""

    def __init__(
        self, runner: BlockRunner, kind: str, block: Weights, inputs: Rows, targets: Rows,
        heldout: torch.Tensor,
    ) -> None:  # fmt: skip
        self._runner, self._kind = runner, kind
        self._run = runner.attention if kind == "attention" else runner.ffn
        self.room = Room()
        self.start: Parts = [self._solved_for(block)]
        self._fixed = {n: v for n, v in block.items() if n not in self.start[0]}
        self._inputs, self._targets = inputs, targets
        self._fit = [b for b in batches(heldout) if not heldout[b[0]]]
        self._heldout = [b for b in batches(heldout) if heldout[b[0]]]
        self._tokens = sum(len(b) for b in self._fit) * inputs.shape[1]

    def _solved_for(self, block: Weights) -> dict[str, torch.Tensor]:
        """Matrices [..., out, in], by name."""
        return {n: block[n].clone() for n in self._runner.projections(self._kind)}

    def block(self, weights: Weights) -> dict[str, torch.Tensor]:
        """The whole block with these in the place of `start`."""
        return {**self._fixed, **weights}

    def _grams(self, name: str) -> tuple[Gram, Gram]:
        """Of what a matrix reads, and of the gradients at what it gives."""
        give, read = self.start[0][name].shape
        return Gram(read), Gram(give)

    @torch.no_grad()
    def error(self, weights: Parts) -> float:
        """Mean squared error per held-out token."""
        total = sum(
            float((self._outputs(weights[0], b) - self._targets[b]).square().sum()) for b in self._heldout
        )
        return total / (sum(len(b) for b in self._heldout) * self._inputs.shape[1])

    def descent(self) -> Parts:
        return self._pull(lambda b, y: self._targets[b] - y)

    def curvature(self, direction: Parts) -> Parts:
        length = small_step(self.start, direction)
        (moved,) = add(self.start, direction, length)

        def image(part: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return (self._outputs(moved, part) - y) / length

        return self._pull(image)

    def factors(self) -> Factors:
        """From random probes of the outputs on a few batches."""
        both = {name: self._grams(name) for name in self.start[0]}
        reads, gives = ({n: grams[i] for n, grams in both.items()} for i in range(2))
        generator = torch.Generator().manual_seed(0)
        leaves = self._leaves()
        for part in self._fit[:_FACTOR_BATCHES]:
            with self._runner.watch(self._kind, leaves) as seen:
                y = self._outputs(leaves, part)
            probe = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
            made = [output for _, output in seen.values()]
            for (name, (read, _)), gradient in zip(
                seen.items(), torch.autograd.grad(y, made, probe), strict=True
            ):
                reads[name].add_batch(read.detach()[..., : reads[name].width])
                gives[name].add_batch(gradient)
        inverses, ridges = factors_of(reads, gives, _DAMPING)
        return Factors([inverses], [ridges])

    def _outputs(self, weights: Weights, part: torch.Tensor) -> torch.Tensor:
        return self._run(self.block(weights), self._inputs[part])

    def _leaves(self) -> dict[str, torch.Tensor]:
        return {n: w.clone().requires_grad_() for n, w in self.start[0].items()}

    def _pull(self, vectors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Parts:
        """J^T v / n with v of a batch made from its indices and its present outputs."""
        leaves = self._leaves()
        for part in self._fit:
            y = self._outputs(leaves, part)
            y.backward(vectors(part, y.detach()) / self._tokens)
        return [{n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}]


class ExpertStep(BlockStep):
    """Of an FFN of experts: matrices of gate and up as [E, F, D], of down as [E, D, F]."""

    def _solved_for(self, block: Weights) -> dict[str, torch.Tensor]:
        family = self._runner.family
        self._down, experts = f"{family.down}.weight", len(block[f"{family.router}.weight"])
        *inner, down = self._runner.expert_projections()
        found = {name: block[name].unflatten(0, (experts, -1)).clone() for name in inner}
        return {**found, down: block[down].unflatten(1, (experts, -1)).transpose(0, 1).contiguous()}

    def block(self, weights: Weights) -> dict[str, torch.Tensor]:
        joined = {n: w.transpose(0, 1) if n == self._down else w for n, w in weights.items()}
        return {
            **self._fixed,
            **{n: w.flatten(1) if n == self._down else w.flatten(0, 1) for n, w in joined.items()},
        }

    def _grams(self, name: str) -> tuple[Gram, Gram]:
        experts, give, read = self.start[0][name].shape
        if name == self._down:
            return Gram(experts * read, experts), Gram(give)
        return Gram(read), Gram(experts * give, experts)
