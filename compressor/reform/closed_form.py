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
from collections.abc import Iterator
from functools import cached_property

import torch

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_SKETCH = 128


def damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """G + damping * mean(diag G) * I, never exactly singular."""
    return damp(gram.clone(), damping)


def damp(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """`damped`, in place."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(damping * diagonal.mean().clamp_min(1e-12))
    return gram


class Reforms:
    """The reforms of one output projection, for whichever columns stay.

    Args:
        weight: [D, n] dense projection.
        gram: [n, n] float64, already damped, of its dense input; of experts [E, n / E, n / E].
        ranked: all columns, most valuable first; of experts [E, n / E]. Given these, only sets that lead it
            may stay, and share one factor: the leading part of a Cholesky factor is the factor of that part.
    """

    def __init__(
        self, weight: torch.Tensor, gram: torch.Tensor, ranked: torch.Tensor | None = None
    ) -> None:
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
    """Of a projection, or of one expert's columns in it."""

    def __init__(self, weight: torch.Tensor, gram: torch.Tensor, ranked: torch.Tensor | None) -> None:
        self._weight, self._target = weight, gram @ weight.double().T
        self._gram, self._places = gram, None if ranked is None else ranked.argsort()
        if ranked is not None:
            self._gram, self._failed = gram[ranked[:, None], ranked], torch.empty((), dtype=torch.int32)
            torch.linalg.cholesky_ex(self._gram, out=(self._gram, self._failed))

    @property
    def definite(self) -> bool:
        failed = self._failed if self._places is not None else torch.linalg.cholesky_ex(self._gram).info
        return not bool(failed)

    def __call__(self, kept: torch.Tensor) -> torch.Tensor:
        """[k, D]."""
        if self._places is None:
            factor = torch.linalg.cholesky(self._gram[kept][:, kept])
            return torch.cholesky_solve(self._target[kept], factor)
        places, order = self._places[kept].sort()
        self._check(places)
        target, factor = self._target[kept[order]], self._gram[: len(kept), : len(kept)]
        return torch.cholesky_solve(target, factor)[order.argsort()]

    def error(self, kept: torch.Tensor) -> float:
        """tr(W G' W^T) - tr(W'_K (G' W^T)_K), W' the reformed weights; with a factor L of the ranked columns,
        that is the sum of squares of L^T W^T from row k on."""
        if self._places is None:
            total = float((self._weight.T * self._target).sum())
            return max(0.0, total - float((self(kept) * self._target[kept]).sum()))
        self._check(self._places[kept])
        return float(self._losses[len(kept) :].sum())

    @cached_property
    def _losses(self) -> torch.Tensor:
        """[n]: what the columns of each rank and all below add to the error."""
        assert self._places is not None
        ranked = self._weight.double()[:, self._places.argsort()]
        return (self._gram.tril().T @ ranked.T).square().sum(1)

    @staticmethod
    def _check(places: torch.Tensor) -> None:
        if len(places) and int(places.max()) >= len(places):
            raise ValueError("the columns that stay do not lead the ranking")


def reform(weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """`Reforms` for one set of columns."""
    return Reforms(weight, gram)(kept)


def sketch(weight: torch.Tensor) -> torch.Tensor:
    """[at most 128, n] float64: what is linear in a weight's rows, and of which only the sum of squares over
    rows counts, is about the same of these (products with random signs, the same ones every time)."""
    if len(weight) <= _SKETCH:
        return weight.double()
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (_SKETCH, len(weight)), generator=generator).double() * 2 - 1
    return signs @ weight.double() / math.sqrt(_SKETCH)


def reconstruction_error(
    weight: torch.Tensor, kept_weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor
) -> float:
    """Mean squared error per token of the block's output, ||(What - W) X||^2 / n."""
    difference = -weight.double()
    difference[:, kept] += kept_weight.double()
    experts = difference.split(gram.shape[-1], 1)
    grams = gram if gram.dim() == 3 else gram[None]
    return sum(float(((d @ g) * d).sum()) for d, g in zip(experts, grams, strict=True))


def choose_damping(
    weight: torch.Tensor, fit: torch.Tensor, heldout: torch.Tensor, kept: list[torch.Tensor],
    ranked: torch.Tensor | None = None,
) -> float:  # fmt: skip
    """The damping whose reforms, over several kept sets, err least on held-out text. Those that leave a Gram
    of little text not positive definite, as it was rounded, are none. ranked: as in `Reforms`."""
    rows = sketch(weight)
    plain = [max(reconstruction_error(rows, rows[:, k], heldout, k), 1e-30) for k in kept]

    def error(damping: float) -> float:
        solved = Reforms(rows, damped(fit, damping), ranked)
        if not solved.definite:
            return math.inf
        return sum(
            reconstruction_error(rows, solved(k), heldout, k) / cut
            for k, cut in zip(kept, plain, strict=True)
        )

    return min(DAMPINGS, key=error)
