"""The closed-form reconstruction of an output projection (the problem of OSSCAR and SparseGPT).

min over What of ||What X_K - W X||^2 + damping ||What - W_K||^2, with only the columns K kept, has the
solution What = W G'[:, K] (G'[K, K])^-1 with G' = G + damping I: damping draws the solution towards the
original weights, not towards zero. (This is the problem of the paper's Sec. 3.4, which calls the step
"reformation"; its ADMM approaches the undamped solution.)

Where there is a Gram matrix of each expert, [E, n, n], the columns of each expert are solved by themselves:
each expert compensates for what it loses itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol, TypeVar

import torch

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_PROJECTED_ROWS = 128
Made = TypeVar("Made")


def damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """Returns G + damping * mean(diag G) * I, which is never exactly singular."""
    return damp(gram.clone(), damping)


def damp(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """Adds damping * mean(diag G) * I to G in place and returns it."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(damping * diagonal.mean().clamp_min(1e-12))
    return gram


class _Pruner(Protocol):
    """Prunes columns of one weight matrix and solves the kept ones anew."""

    @property
    def definite(self) -> bool:
        """Tells whether every set of kept columns has a solution."""

    def solve(self, kept: torch.Tensor) -> torch.Tensor:
        """Returns the solved columns, transposed, [k, D]."""

    def error(self, kept: torch.Tensor) -> float:
        """Returns the error that least squares leave with these columns."""


class LeastSquaresPruner:
    """Prunes any columns of one weight matrix.

    With K the kept columns and R the others the solution is W_K^T + G'[K, K]^-1 C with C = G'[K, R] W_R^T. It
    leaves the error tr(W_R G'[R, R] W_R^T) - tr(C^T G'[K, K]^-1 C).

    Args:
        weight: [D, n].
        gram: [n, n] float64, damped.
    """

    def __init__(self, weight: torch.Tensor, gram: torch.Tensor) -> None:
        self._weight, self._gram = weight.double(), gram

    @property
    def definite(self) -> bool:
        """Tells whether the Gram matrix is positive definite."""
        return not bool(torch.linalg.cholesky_ex(self._gram).info)

    def solve(self, kept: torch.Tensor) -> torch.Tensor:
        """Returns the solved columns, transposed, [k, D]."""
        factor, cross, _ = self._split(kept)
        return self._weight[:, kept].T + torch.cholesky_solve(cross, factor)

    def error(self, kept: torch.Tensor) -> float:
        """Returns the error that least squares leave with these columns."""
        factor, cross, pruned = self._split(kept)
        lost, rows = self._weight[:, pruned], torch.linalg.solve_triangular(factor, cross, upper=False)
        total = float(((lost @ self._gram[pruned][:, pruned]) * lost).sum())
        return max(0.0, total - float(rows.square().sum()))

    def _split(self, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the Cholesky factor of G'[K, K], C, and the indices R."""
        is_pruned = torch.ones(len(self._gram), dtype=torch.bool)
        is_pruned[kept] = False
        pruned, rows = is_pruned.nonzero()[:, 0], self._gram[kept]
        cross = rows[:, pruned] @ self._weight[:, pruned].T
        return torch.linalg.cholesky(rows[:, kept]), cross, pruned


class NestedLeastSquaresPruner:
    """Prunes the last columns of a ranking; all widths share one Cholesky factor.

    The leading part of a Cholesky factor is the factor of that part of the matrix. With L the factor in the
    order of the ranking, and C as in `LeastSquaresPruner`, C is L[K, K] (L[R, K]^T W_R^T), and the error the
    sum of squares of L^T W^T from row k on.

    Args:
        weight: [D, n].
        gram: [n, n] float64, damped.
        ranking: [n] all columns, most valuable first.
    """

    def __init__(self, weight: torch.Tensor, gram: torch.Tensor, ranking: torch.Tensor) -> None:
        self._weight, self._ranks = weight.double()[:, ranking], ranking.argsort()
        self._cholesky = gram[ranking[:, None], ranking]
        self._failed = torch.empty((), dtype=torch.int32, device=gram.device)
        torch.linalg.cholesky_ex(self._cholesky, out=(self._cholesky, self._failed))

    @property
    def definite(self) -> bool:
        """Tells whether the Gram matrix is positive definite."""
        return not bool(self._failed)

    def solve(self, kept: torch.Tensor) -> torch.Tensor:
        """Returns the solved columns, transposed, [k, D]."""
        count, by_rank = self._leading(kept)
        factor, below = self._cholesky[:count, :count], self._cholesky[count:, :count]
        change = torch.linalg.solve_triangular(factor.T, below.T @ self._weight[:, count:].T, upper=True)
        return (self._weight[:, :count].T + change)[by_rank.argsort()]

    def error(self, kept: torch.Tensor) -> float:
        """Returns the error that least squares leave with these columns."""
        return float(self._losses[self._leading(kept)[0] :].sum())

    @cached_property
    def _losses(self) -> torch.Tensor:
        """[n]: the error that pruning each rank adds when all ranks below it are pruned, too."""
        return (self._cholesky.tril().T @ self._weight.T).square().sum(1)

    def _leading(self, kept: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Returns the number of kept columns and their order by rank.

        Raises:
            ValueError: the columns do not lead the ranking.
        """
        ranks, by_rank = self._ranks[kept].sort()
        if len(ranks) and int(ranks[-1]) >= len(ranks):
            raise ValueError("the kept columns do not lead the ranking")
        return len(kept), by_rank


class ProjectionPruner:
    """Prunes columns of one output projection and solves the kept ones by least squares, expert by expert.

    Args:
        weight: [D, n] dense projection.
        gram: The Gram matrix of its dense input, damped, [n, n] float64; of experts [E, n / E, n / E].
        ranking: All columns, most valuable first, [n]; of experts [E, n / E]. With a ranking only columns
            that lead it may be kept, and all widths share one Cholesky factor.
    """

    def __init__(self, weight: torch.Tensor, gram: torch.Tensor, ranking: torch.Tensor | None = None) -> None:
        self._dtype, grams = weight.dtype, gram if gram.dim() == 3 else gram[None]
        self._width = grams.shape[-1]
        parts = zip(weight.split(self._width, 1), grams, strict=True)
        self._pruners: list[_Pruner]
        if ranking is None:
            self._pruners = [LeastSquaresPruner(*part) for part in parts]
        else:
            first = torch.arange(len(grams))[:, None] * self._width
            rankings = ranking.view(len(grams), -1) - first
            self._pruners = [
                NestedLeastSquaresPruner(*part, own) for part, own in zip(parts, rankings, strict=True)
            ]

    @property
    def definite(self) -> bool:
        """Tells whether every set of columns that may be kept has a solution."""
        return all(pruner.definite for pruner in self._pruners)

    def solve(self, kept: torch.Tensor) -> torch.Tensor:
        """Returns the solved columns, [D, k].

        Args:
            kept: [k] column indices, expert by expert.
        """
        solved = [pruner.solve(columns) for pruner, columns in self._by_expert(kept)]
        return torch.cat(solved).T.to(self._dtype)

    def error(self, kept: torch.Tensor) -> float:
        """Returns the error that least squares leave: squared error per token, and the damping's term."""
        return sum(pruner.error(columns) for pruner, columns in self._by_expert(kept))

    def _by_expert(self, kept: torch.Tensor) -> Iterator[tuple[_Pruner, torch.Tensor]]:
        for expert, pruner in enumerate(self._pruners):
            yield pruner, kept[kept // self._width == expert] - expert * self._width


def reconstruct(weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Returns the solved columns of `ProjectionPruner` for one set of kept columns."""
    return ProjectionPruner(weight, gram).solve(kept)


def random_projection(weight: torch.Tensor, most: int = _PROJECTED_ROWS) -> torch.Tensor:
    """Projects the rows of a weight onto at most `most` rows, [min(D, most), n] float64.

    Products with random signs (the same ones every time) keep sums of squares over rows, of the weight and of
    what is linear in its rows, within sqrt(2 / most) of each column, one standard deviation.
    """
    if len(weight) <= most:
        return weight.double()
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (most, len(weight)), generator=generator).double() * 2 - 1
    return signs.to(weight.device) @ weight.double() / math.sqrt(most)


def reconstruction_error(
    weight: torch.Tensor, kept_weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor
) -> float:
    """Returns the mean squared error per token of the block's output, ||(What - W) X||^2 / n."""
    difference = -weight.double()
    difference[:, kept] += kept_weight.double()
    experts = difference.split(gram.shape[-1], 1)
    grams = gram if gram.dim() == 3 else gram[None]
    return sum(float(((d @ g) * d).sum()) for d, g in zip(experts, grams, strict=True))


def best_damping(
    dampings: Sequence[float], attempt: Callable[[float], tuple[float, Made]]
) -> tuple[float, Made]:
    """Returns the damping of least error, and what was made with it.

    Errors fall, then rise along the dampings: the search goes from the middle to the first low. Where an
    attempt fails, with an infinite error, a larger damping may do.

    Args:
        dampings: Dampings in ascending order.
        attempt: Makes something with a damping; returns its error and what was made.
    """
    at = len(dampings) // 2
    lowest, made = attempt(dampings[at])
    for step in (1, -1):
        start = at
        while 0 <= at + step < len(dampings):
            error, other = attempt(dampings[at + step])
            if math.isfinite(lowest) and error >= lowest:
                break
            at, lowest, made = at + step, error, other
        if at != start:
            break
    return dampings[at], made


def choose_damping(
    weight: torch.Tensor,
    fit: torch.Tensor,
    heldout: torch.Tensor,
    kept: list[torch.Tensor],
    ranking: torch.Tensor | None = None,
    dampings: Sequence[float] = DAMPINGS,
) -> tuple[float, ProjectionPruner]:
    """Returns the damping with the least error on held-out text, and the pruner that has it.

    The pruner works on the weight's `random_projection`. Dampings that leave a Gram matrix of little text not
    positive definite, by numerical error, are passed over.

    Args:
        weight: [D, n] dense projection.
        fit: The Gram matrix on the text that is fitted on.
        heldout: The Gram matrix on held-out text.
        kept: Sets of kept columns; their errors count relative to plain pruning.
        ranking: As in `ProjectionPruner`.
        dampings: Those that are tried, in ascending order; of one alone no errors are computed.
    """
    rows = random_projection(weight)
    if len(dampings) == 1:
        return dampings[0], ProjectionPruner(rows, damped(fit, dampings[0]), ranking)
    plain = [max(reconstruction_error(rows, rows[:, k], heldout, k), 1e-30) for k in kept]

    def attempt(damping: float) -> tuple[float, ProjectionPruner]:
        pruner = ProjectionPruner(rows, damped(fit, damping), ranking)
        if not pruner.definite:
            return math.inf, pruner
        shares = (
            reconstruction_error(rows, pruner.solve(k), heldout, k) / pruned
            for k, pruned in zip(kept, plain, strict=True)
        )
        return sum(shares), pruner

    return best_damping(dampings, attempt)
