"""Re-solving all projections of a block at once, after its output projection: one damped Gauss-Newton step.

A block maps its input x to y(theta; x), theta its weight matrices. With y ~ y(theta0) + J d the best d is
a linear least-squares problem,

    min_d  sum_t ||J_t d - (target_t - y_t)||^2 / n + ||d||^2_damping

solved by conjugate gradients on its normal equations. J^T v is a backward pass of the block, J p a
difference of two forward passes. The preconditioner is Kronecker-factored (K-FAC, arXiv 1503.05671): for
every matrix, the Gram of what it reads and that of the output's gradients at what it gives. The iteration
is taken that errs least on held-out windows, which is early stopping. No loss of the model, no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from compressor.forward import BlockRunner, Weights
from compressor.reform.closed_form import damped
from compressor.statistics.collect import batches
from compressor.statistics.gram import Gram

Tensors = dict[str, torch.Tensor]
_ITERATIONS = 4
_DAMPING = 1e-2
_DIFFERENCE = 1e-3
_FACTOR_BATCHES = 2
_PATIENCE = 2


def refine_block(
    runner: BlockRunner, kind: str, block: Weights, inputs: torch.Tensor, targets: torch.Tensor,
    heldout: torch.Tensor, iterations: int = _ITERATIONS,
) -> Tensors:  # fmt: skip
    """The block with every projection adjusted, or as it was where that errs less on held-out windows.

    Args:
        kind: "attention" or "ffn". inputs, targets: [B, T, D] residual stream before and after the block.
        heldout: [B] bool.
    """
    step = _Step(runner, kind, block, inputs, targets, heldout)
    with torch.enable_grad():
        best = min(step.candidates(iterations), key=lambda found: found[0])
    return {**block, **best[1]}


class _Step:
    """The least-squares problem of one block around its present weights."""

    def __init__(
        self, runner: BlockRunner, kind: str, block: Weights, inputs: torch.Tensor, targets: torch.Tensor,
        heldout: torch.Tensor,
    ) -> None:  # fmt: skip
        self._runner, self._kind = runner, kind
        self._run = runner.attention if kind == "attention" else runner.ffn
        names = runner.projections(kind)
        self._start = {n: block[n].clone() for n in names}
        self._fixed = {n: v for n, v in block.items() if n not in self._start}
        self._inputs, self._targets = inputs, targets
        self._fit = [b for b in batches(heldout) if not heldout[b[0]]]
        self._heldout = [b for b in batches(heldout) if heldout[b[0]]]
        self._tokens = sum(len(b) for b in self._fit) * inputs.shape[1]

    def candidates(self, iterations: int) -> Iterator[tuple[float, Tensors]]:
        """(error on held-out windows, weights): as they are, then after every iteration while it helps."""
        best = self._error(self._start)
        yield best, self._start
        factors = self._factors()
        change = {n: torch.zeros_like(w) for n, w in self._start.items()}
        left = self._pull(lambda b, y: self._targets[b] - y)
        direction = solved = factors.solve(left)
        worse, slope = 0, _dot(left, solved)
        for _ in range(iterations):
            if slope <= 0 or worse == _PATIENCE:
                return
            image = _add(self._normal(direction), factors.ridge(direction))
            length = slope / _dot(direction, image)
            change, left = _add(change, direction, length), _add(left, image, -length)
            weights = _add(self._start, change)
            error = self._error(weights)
            best, worse = (error, 0) if error < best else (best, worse + 1)
            yield error, weights
            solved = factors.solve(left)
            slope, before = _dot(left, solved), slope
            direction = _add(solved, direction, slope / before)

    def _outputs(self, weights: Weights, part: torch.Tensor) -> torch.Tensor:
        return self._run({**self._fixed, **weights}, self._inputs[part])

    def _normal(self, p: Tensors) -> Tensors:
        """J^T J p / n."""
        length = _dot(self._start, self._start) ** 0.5 / max(_dot(p, p) ** 0.5, 1e-30) * _DIFFERENCE
        moved = _add(self._start, p, length)

        def image(part: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return (self._outputs(moved, part) - y) / length

        return self._pull(image)

    def _pull(self, vectors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Tensors:
        """J^T v / n with v of a batch made from its indices and its present outputs."""
        leaves = {n: w.clone().requires_grad_() for n, w in self._start.items()}
        for part in self._fit:
            y = self._outputs(leaves, part)
            y.backward(vectors(part, y.detach()) / self._tokens)
        return {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}

    @torch.no_grad()
    def _error(self, weights: Weights) -> float:
        """Mean squared error per held-out token."""
        total = sum(
            float((self._outputs(weights, b) - self._targets[b]).square().sum()) for b in self._heldout
        )
        return total / (sum(len(b) for b in self._heldout) * self._inputs.shape[1])

    def _factors(self) -> _Factors:
        """From random probes of the outputs on a few batches."""
        reads = {n: Gram(w.shape[1]) for n, w in self._start.items()}
        gives = {n: Gram(w.shape[0]) for n, w in self._start.items()}
        generator = torch.Generator().manual_seed(0)
        leaves = {n: w.clone().requires_grad_() for n, w in self._start.items()}
        for part in self._fit[:_FACTOR_BATCHES]:
            with self._runner.watch(self._kind) as seen:
                y = self._outputs(leaves, part)
            probe = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
            made = [output for _, output in seen.values()]
            for (name, (read, _)), gradient in zip(
                seen.items(), torch.autograd.grad(y, made, probe), strict=True
            ):
                reads[name].add_batch(read.detach())
                gives[name].add_batch(gradient)
        return _Factors({n: reads[n].mean() for n in reads}, {n: gives[n].mean() for n in gives})


class _Factors:
    """Kronecker factors of the normal matrix, damped: the preconditioner, and the ridge that goes with it."""

    def __init__(self, reads: Tensors, gives: Tensors) -> None:
        self._reads = {n: torch.linalg.inv(damped(g, _DAMPING)).float() for n, g in reads.items()}
        self._gives = {n: torch.linalg.inv(damped(g, _DAMPING)).float() for n, g in gives.items()}
        self._ridge = {
            n: _DAMPING * float(reads[n].diagonal().mean() * gives[n].diagonal().mean()) for n in reads
        }

    def solve(self, residual: Tensors) -> Tensors:
        return {n: self._gives[n] @ r @ self._reads[n] for n, r in residual.items()}

    def ridge(self, p: Tensors) -> Tensors:
        return {n: self._ridge[n] * v for n, v in p.items()}


def _dot(a: Tensors, b: Tensors) -> float:
    return sum(float((a[n].double() * b[n].double()).sum()) for n in a)


def _add(a: Tensors, b: Tensors, factor: float = 1.0) -> Tensors:
    return {n: a[n] + factor * b[n] for n in a}
