"""Experts ranked by backward elimination: remove the expert that costs least, route again, repeat.

Where an expert is removed, its tokens go to the next one, and the routing weights of the others change. With
f_e(x) the output of expert e for a token, s_e(x) its routing weight in the dense model and s'_e(x) without
the removed experts, removing them costs the sum over tokens of ||sum_e (s'_e - s_e) f_e||^2. It is measured
on a sample of tokens, together with the experts removed before. (REAP, arXiv 2510.13999, scores every expert
once, by its routed output, and does not consider which experts take its tokens.)

Shapes: S tokens of the sample, E experts.
"""

from __future__ import annotations

import math

import torch

from lathe.artefact.modeling.modeling_lathe_moe import shares_of


def rank_experts(
    logits_SE: torch.Tensor, products_SEE: torch.Tensor, chosen: int, normalised: bool
) -> torch.Tensor:
    """Ranks experts, most valuable first, [E]; the first `chosen` are not ranked, as a token uses so many.

    Args:
        logits_SE: The router's logits.
        products_SEE: Inner products of the experts' outputs for a token.
        chosen: The number of experts per token.
        normalised: Whether the routing weights of the chosen experts are normalised.
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
