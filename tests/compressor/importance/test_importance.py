"""Rankings against brute force: every removal solved anew, every score computed entry by entry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.importance import importance_methods
from lathe.compressor.importance.elimination import eliminate
from lathe.compressor.importance.paper import saliency
from lathe.compressor.reconstruction import damped
from support.tiny_problem import Lab, make_lab


def problem(width: int, samples: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A projection [6, width] and the damped Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, width, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(6, width, generator=generator), damped(x.T @ x / samples, 1e-3)


def resolved_error(weight: torch.Tensor, gram: torch.Tensor, kept: list[int]) -> float:
    """Least squared error of the output with only these columns, every one of them solved anew."""
    w, g = weight.double(), gram
    if not kept:
        return float((w @ g * w).sum())
    solution = torch.linalg.solve(g[kept][:, kept], g[kept] @ w.T).T
    difference = w.clone()
    difference[:, kept] -= solution
    return float((difference @ g * difference).sum())


@pytest.mark.parametrize(("width", "block"), [(9, 1), (12, 3)])
def test_elimination_removes_what_costs_least_after_a_new_solve(width: int, block: int) -> None:
    weight, gram = problem(width)
    ranking, units = eliminate(weight, gram.clone(), block).tolist(), list(range(width // block))

    def error(without: list[int]) -> float:
        kept = [u * block + i for u in units if u not in without for i in range(block)]
        return resolved_error(weight, gram, kept)

    gone: list[int] = []
    while len(gone) < len(units):
        gone.append(min((u for u in units if u not in gone), key=lambda u: error([*gone, u])))
    assert ranking == gone[::-1]


@pytest.mark.parametrize("per_step", [1, 4, 100])
def test_elimination_ranks_every_unit_once(per_step: int) -> None:
    weight, gram = problem(30)
    assert sorted(eliminate(weight, gram, 1, per_step).tolist()) == list(range(30))


def test_elimination_beats_a_single_look_at_each_channel() -> None:
    weight, gram = problem(24, seed=3)
    once = (weight.double().square().sum(0) / torch.linalg.inv(gram).diagonal()).argsort(descending=True)
    stepwise = eliminate(weight, gram.clone(), 1)
    errors = [resolved_error(weight, gram, ranking[:8].tolist()) for ranking in (stepwise, once)]
    assert errors[0] < 0.9 * errors[1]


def test_zero_and_doubled_channels_go_first() -> None:
    weight, gram = problem(10)
    x = torch.linalg.cholesky(gram).T.clone()
    x[:, 7] = x[:, 2]
    x[:, 4] = 0
    last = set(eliminate(weight, damped(x.T @ x, 1e-9), 1)[-2:].tolist())
    assert last in ({4, 2}, {4, 7})


def test_orders_of_a_layer_are_permutations_and_keep_heads_in_their_groups(lab: Lab) -> None:
    shape = lab.source.shape
    for name in ("elimination", "paper"):
        ranking = importance_methods.get(name)(shape, lab.layers[1], lab.statistics[1])
        assert sorted(ranking.groups.tolist()) == list(range(4))
        assert sorted(ranking.channels.tolist()) == list(range(96))
        assert [sorted(row) for row in ranking.heads.tolist()] == [[2 * k, 2 * k + 1] for k in range(4)]


def test_a_group_that_writes_nothing_is_the_first_to_go(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    weights = dict(lab.layers[0])
    weights["self_attn.o_proj.weight"] = weights["self_attn.o_proj.weight"].clone()
    weights["self_attn.o_proj.weight"][:, 2 * 16 : 4 * 16] = 0
    ranking = importance_methods.get("elimination")(lab.source.shape, weights, lab.statistics[0])
    assert ranking.groups[-1] == 1


def test_saliency_is_the_printed_formula() -> None:
    weight, gram = problem(5)
    inverse = torch.linalg.inv(2 * damped(gram, 1e-2))
    direct = torch.tensor(
        [[float(weight[i, j]) ** 2 / float(inverse[j, j]) for j in range(5)] for i in range(6)]
    )
    torch.testing.assert_close(saliency(weight, gram).float(), direct)


def test_the_papers_order_adds_the_rows_and_columns_that_share_a_mask(lab: Lab) -> None:
    weights, found = lab.layers[2], lab.statistics[2]
    ranking = importance_methods.get("paper")(lab.source.shape, weights, found)
    reads = {"gate": found.ffn_input, "up": found.ffn_input}
    score = sum(saliency(weights[f"mlp.{m}_proj.weight"], gram).sum(1) for m, gram in reads.items())
    score = score + saliency(weights["mlp.down_proj.weight"], found.ffn).sum(0)
    assert ranking.channels.tolist() == score.argsort(descending=True).tolist()

    attention = {m: weights[f"self_attn.{m}_proj.weight"] for m in "qkvo"}
    q = saliency(attention["q"], found.attention_input).sum(1).view(4, -1)
    kv = sum(saliency(attention[m], found.attention_input).sum(1).view(4, -1).sum(1) for m in "kv")
    o = saliency(attention["o"], found.attention).sum(0).view(4, -1)
    assert ranking.groups.tolist() == (q.sum(1) + o.sum(1) + kv).argsort(descending=True).tolist()


def test_unknown_orders_are_named() -> None:
    with pytest.raises(UserError, match=r"`alphabetical`.*elimination.*paper"):
        importance_methods.get("alphabetical")
