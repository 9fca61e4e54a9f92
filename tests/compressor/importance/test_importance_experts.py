"""Experts ranked: against brute force, and where one can stand in for another."""

from __future__ import annotations

import math

import pytest
import torch

from lathe.artefact.modeling.modeling_lathe_moe import shares_of
from lathe.compressor.importance.experts import rank_experts

TOKENS, EXPERTS, WIDTH = 60, 6, 5


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [S, E], and what experts make of tokens [S, E, D]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(TOKENS, EXPERTS, generator=generator)
    return logits, torch.randn(TOKENS, EXPERTS, WIDTH, generator=generator)


def block(logits: torch.Tensor, outputs: torch.Tensor, gone: list[int], normalised: bool) -> torch.Tensor:
    """Returns the block's output without some experts, by its definition."""
    left = logits.clone()
    left[:, gone] = -math.inf
    return torch.einsum("se,sed->sd", shares_of(left, 2, normalised), outputs)


@pytest.mark.parametrize("normalised", [True, False])
def test_each_step_leaves_out_the_expert_that_is_missed_least(normalised: bool) -> None:
    logits, outputs = made()
    ranking = rank_experts(logits, outputs @ outputs.mT, 2, normalised).tolist()
    dense = block(logits, outputs, [], normalised)
    gone: list[int] = []
    while len(gone) < EXPERTS - 2:
        left = [e for e in range(EXPERTS) if e not in gone]
        gone.append(
            min(
                left,
                key=lambda e: float((block(logits, outputs, [*gone, e], normalised) - dense).square().sum()),
            )
        )
    assert ranking[2:] == gone[::-1]
    assert sorted(ranking) == list(range(EXPERTS))


def test_one_of_two_that_do_the_same_goes_first_however_much_it_adds() -> None:
    logits, outputs = made(1)
    logits[:, 4] = logits[:, 1] - 0.01
    outputs[:, 1] *= 5
    outputs[:, 4] = outputs[:, 1]
    ranking = rank_experts(logits, outputs @ outputs.mT, 1, True)
    assert int(ranking[-1]) in (1, 4)


def test_shares_without_an_expert_are_those_of_a_router_without_its_row() -> None:
    logits, _ = made(2)
    kept = torch.tensor([0, 2, 3, 5])
    left = torch.full_like(logits, -math.inf).index_copy(1, kept, logits[:, kept])
    for normalised in (True, False):
        assert torch.equal(shares_of(left, 2, normalised)[:, kept], shares_of(logits[:, kept], 2, normalised))
        assert not shares_of(left, 2, normalised)[:, [1, 4]].any()
