"""Experts ranked by backward elimination: leave out the one that is missed least, choose again, repeat.

Where an expert is left out, its tokens go to the next one, and what the others count changes. With f_e(x)
what expert e makes of a token, s_e(x) what it counts in the dense model and s'_e(x) without those left out,
leaving them out costs sum over tokens of ||sum_e (s'_e - s_e) f_e||^2: measured on a sample of tokens, with
the experts left out before. (REAP, arXiv 2510.13999, scores every expert once, by what its router lets it
add, and does not ask who takes its tokens.)

Shapes: S tokens of the sample, E experts.
"""

from __future__ import annotations

import math

import torch

from lathe.artefact.modeling.modeling_lathe_moe import shares_of


def rank_experts(
    logits_SE: torch.Tensor, products_SEE: torch.Tensor, chosen: int, normalised: bool
) -> torch.Tensor:
    """[E]: most valuable first. The first `chosen` cannot be told apart: a token uses so many.

    Args:
        products_SEE: of what experts add to a token.
    """
    logits, dense = logits_SE.clone(), shares_of(logits_SE, chosen, normalised)
    alive, removed = list(range(logits.shape[1])), list[int]()

    def costs(shares_SE: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        change = shares_SE - dense[at]
        return torch.einsum("se,sef,sf->s", change, products_SEE[at], change)

    while len(alive) > chosen:
        shares = shares_of(logits, chosen, normalised)
        now = costs(shares, torch.arange(len(logits)))

        def added(expert: int, shares: torch.Tensor = shares, now: torch.Tensor = now) -> float:
            at = shares[:, expert].nonzero()[:, 0] if normalised else torch.arange(len(logits))
            without = logits[at]
            without[:, expert] = -math.inf
            return float((costs(shares_of(without, chosen, normalised), at) - now[at]).sum())

        gone = min(alive, key=added)
        logits[:, gone] = -math.inf
        alive.remove(gone)
        removed.append(gone)
    return torch.tensor([*alive, *reversed(removed)])
