"""The closed-form reform.

min over What of ||What X_K - W X||^2 + damping ||What - W_K||^2, where only the columns K stay, has
the solution What = W G'[:, K] (G'[K, K])^-1 with G' = G + damping I: damping draws the solution
towards the original weights, not towards zero. (The paper's Sec. 3.4 problem; its ADMM approaches
the undamped solution.)

Where there is a Gram matrix of each expert, [E, n, n], the columns of each are solved by themselves: each
makes up for what it loses itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import torch

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_SKETCH = 128
Made = TypeVar("Made")


def damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """G + damping * mean(diag G) * I, never exactly singular."""
    return damp(gram.clone(), damping)


def damp(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """`damped`, in place."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(damping * diagonal.mean().clamp_min(1e-12))
    return gram


class ProjectionPruner:
    """The reforms of one output projection, for whichever columns stay.

    Args:
        weight: [D, n] dense projection.
        gram: [n, n] float64, already damped, of its dense input; of experts [E, n / E, n / E].
        ranked: all columns, most valuable first; of experts [E, n / E]. Given these, only sets that lead it
            may stay, and share one factor: the leading part of a Cholesky factor is the factor of that part.
    """

    def __init__(self, weight: torch.Tensor, gram: torch.Tensor, ranked: torch.Tensor | None = None) -> None:
        self._dtype, grams = weight.dtype, gram if gram.dim() == 3 else gram[None]
        self._width = grams.shape[-1]
        first = torch.arange(len(grams))[:, None] * self._width
        ranks = [None] * len(grams) if ranked is None else ranked.view(len(grams), -1) - first
        weights = weight.split(self._width, 1)
        self._parts = [_Reforms(*part) for part in zip(weights, grams, ranks, strict=True)]

    @property
    def definite(self) -> bool:
        """Whether there is a factor for any columns that may stay."""
        return all(part.definite for part in self._parts)

    def __call__(self, kept: torch.Tensor) -> torch.Tensor:
        """[D, k]: what the columns become.

        kept: [k] column indices; expert by expert.
        """
        solved = [part(own) for part, own in self._each(kept)]
        return torch.cat(solved).T.to(self._dtype)

    def error(self, kept: torch.Tensor) -> float:
        """What the least squares leave: the projection's squared error per token, and the damping's term."""
        return sum(part.error(own) for part, own in self._each(kept))

    def _each(self, kept: torch.Tensor) -> Iterator[tuple[_Reforms, torch.Tensor]]:
        """Experts, and which of their columns stay."""
        for expert, part in enumerate(self._parts):
            yield part, kept[kept // self._width == expert] - expert * self._width


class _Reforms:
    """Of a projection, or of one expert's columns in it.

    With K the columns that stay and R the others the solution is W_K^T + G'[K, K]^-1 C, where
    C = G'[K, R] W_R^T, and leaves tr(W_R G'[R, R] W_R^T) - tr(C^T G'[K, K]^-1 C). With a factor L of the
    ranked columns, C is L[K, K] (L[R, K]^T W_R^T), and what is left the sum of squares of L^T W^T from row
    k on.
    """

    def __init__(self, weight: torch.Tensor, gram: torch.Tensor, ranked: torch.Tensor | None) -> None:
        self._weight, self._gram = weight.double(), gram
        self._places = None if ranked is None else ranked.argsort()
        if ranked is not None:
            self._weight = self._weight[:, ranked]
            self._gram = gram[ranked[:, None], ranked]
            self._failed = torch.empty((), dtype=torch.int32, device=gram.device)
            torch.linalg.cholesky_ex(self._gram, out=(self._gram, self._failed))

    @property
    def definite(self) -> bool:
        failed = self._failed if self._places is not None else torch.linalg.cholesky_ex(self._gram).info
        return not bool(failed)

    def __call__(self, kept: torch.Tensor) -> torch.Tensor:
        """[k, D]."""
        if self._places is None:
            factor, cross, _ = self._split(kept)
            return self._weight[:, kept].T + torch.cholesky_solve(cross, factor)
        count, order = self._leading(kept)
        factor, below = self._gram[:count, :count], self._gram[count:, :count]
        moved = torch.linalg.solve_triangular(factor.T, below.T @ self._weight[:, count:].T, upper=True)
        return (self._weight[:, :count].T + moved)[order.argsort()]

    def error(self, kept: torch.Tensor) -> float:
        """What the least squares leave."""
        if self._places is not None:
            return float(self._losses[self._leading(kept)[0] :].sum())
        factor, cross, omitted = self._split(kept)
        left, rows = self._weight[:, omitted], torch.linalg.solve_triangular(factor, cross, upper=False)
        total = float(((left @ self._gram[omitted][:, omitted]) * left).sum())
        return max(0.0, total - float(rows.square().sum()))

    def _split(self, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The factor of G'[K, K], C, and which columns R are."""
        apart = torch.ones(len(self._gram), dtype=torch.bool)
        apart[kept] = False
        omitted, rows = apart.nonzero()[:, 0], self._gram[kept]
        cross = rows[:, omitted] @ self._weight[:, omitted].T
        return torch.linalg.cholesky(rows[:, kept]), cross, omitted

    @cached_property
    def _losses(self) -> torch.Tensor:
        """[n]: what the columns of each rank and all below add to the error."""
        return (self._gram.tril().T @ self._weight.T).square().sum(1)

    def _leading(self, kept: torch.Tensor) -> tuple[int, torch.Tensor]:
        """How many columns stay, and their order by rank.

        Raises:
            ValueError: they do not lead the ranking.
        """
        assert self._places is not None
        places, order = self._places[kept].sort()
        if len(places) and int(places[-1]) >= len(places):
            raise ValueError("the columns that stay do not lead the ranking")
        return len(kept), order


def reconstruct(weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """`Reforms` for one set of columns."""
    return ProjectionPruner(weight, gram)(kept)


def random_projection(weight: torch.Tensor, most: int = _SKETCH) -> torch.Tensor:
    """[at most `most`, n] float64: what is linear in a weight's rows, and of which only the sum of squares
    over rows counts, is about the same of these (products with random signs, the same ones every time); of
    each column within sqrt(2 / most), one standard deviation.
    """
    if len(weight) <= most:
        return weight.double()
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (most, len(weight)), generator=generator).double() * 2 - 1
    return signs.to(weight.device) @ weight.double() / math.sqrt(most)


def reconstruction_error(
    weight: torch.Tensor, kept_weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor
) -> float:
    """Mean squared error per token of the block's output, ||(What - W) X||^2 / n."""
    difference = -weight.double()
    difference[:, kept] += kept_weight.double()
    experts = difference.split(gram.shape[-1], 1)
    grams = gram if gram.dim() == 3 else gram[None]
    return sum(float(((d @ g) * d).sum()) for d, g in zip(experts, grams, strict=True))


def best_damping(
    dampings: Sequence[float], attempt: Callable[[float], tuple[float, Made]]
) -> tuple[float, Made]:
    """The damping of least error, and what was made with it: the first low on the way from the middle of
    ascending ones, as errors fall, then rise along them. Where none could be made, infinity, a larger one may
    do.

    attempt: damping -> (error, what was made).
    """
    at = len(dampings) // 2
    lowest, made = attempt(dampings[at])
    for step in (1, -1):
        start = at
        while 0 <= at + step < len(dampings):
            found, other = attempt(dampings[at + step])
            if math.isfinite(lowest) and found >= lowest:
                break
            at, lowest, made = at + step, found, other
        if at != start:
            break
    return dampings[at], made


def choose_damping(
    weight: torch.Tensor,
    fit: torch.Tensor,
    heldout: torch.Tensor,
    kept: list[torch.Tensor],
    ranked: torch.Tensor | None = None,
) -> tuple[float, ProjectionPruner]:
    """The damping whose reforms, over several kept sets, err least on held-out text, and these reforms, of
    the weight's `sketch`. Those that leave a Gram of little text not positive definite, as it was rounded,
    are none. ranked: as in `Reforms`.
    """
    rows = random_projection(weight)
    plain = [max(reconstruction_error(rows, rows[:, k], heldout, k), 1e-30) for k in kept]

    def attempt(damping: float) -> tuple[float, ProjectionPruner]:
        solved = ProjectionPruner(rows, damped(fit, damping), ranked)
        if not solved.definite:
            return math.inf, solved
        shares = (
            reconstruction_error(rows, solved(k), heldout, k) / cut
            for k, cut in zip(kept, plain, strict=True)
        )
        return sum(shares), solved

    return best_damping(DAMPINGS, attempt)
