"""OSSCAR and the linear algebra below it against brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from other_settings import KINDS, is_deterministic
from tiny_setting import make_setting

from benchmarks.quality.baselines.osscar import osscar, prune, shapes, swap
from benchmarks.quality.obs import removal_costs, remove, return_gains, solve
from benchmarks.quality.setting import Setting
from lathe.artefact.plan import Plan
from lathe.compressor.importance.elimination import eliminate
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ, Q_PROJ, UP_PROJ


def problem(seed: int, inputs: int = 12, outputs: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """A projection [outputs, inputs] and a well-conditioned Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(40, 4, generator=generator) @ torch.randn(4, inputs, generator=generator)
    x = (mixed + 0.5 * torch.randn(40, inputs, generator=generator)).double()
    return torch.randn(outputs, inputs, generator=generator).double(), x.T @ x


def error(weight: torch.Tensor, gram: torch.Tensor, columns: list[int]) -> float:
    """Squared error of the best fit on some columns, by numpy's least squares."""
    root = np.linalg.cholesky(gram.numpy()).T
    target = root @ weight.numpy().T
    fit = np.linalg.lstsq(root[:, columns], target, rcond=None)[0]
    return float(((root[:, columns] @ fit - target) ** 2).sum())


def of(blocks: tuple[int, ...] | list[int], size: int) -> list[int]:
    return [b * size + i for b in blocks for i in range(size)]


@pytest.mark.parametrize("size", [1, 3])
def test_costs_and_gains_are_differences_of_least_squares_errors(size: int) -> None:
    weight, gram = problem(0)
    count, cross = 12 // size, gram @ weight.T
    inside, outside = list(range(1, count)), [0]
    columns = torch.tensor(of(inside, size))
    w, inverse = solve(gram[columns][:, columns], cross[columns])
    here = error(weight, gram, of(inside, size))
    expected = [error(weight, gram, of([c for c in inside if c != b], size)) - here for b in inside]
    assert removal_costs(w, inverse, size).numpy() == pytest.approx(np.array(expected), rel=1e-6)
    gain = return_gains(gram, cross, columns, torch.tensor(of(outside, size)), size)
    assert float(gain) == pytest.approx(here - error(weight, gram, of(range(count), size)), rel=1e-6)


def test_removing_inputs_is_fitting_the_others_anew() -> None:
    weight, gram = problem(1)
    cross, stays = gram @ weight.T, torch.arange(12) % 3 != 0
    w, inverse = remove(*solve(gram, cross), stays)
    expected = solve(gram[stays][:, stays], cross[stays])
    torch.testing.assert_close(w, expected[0])
    torch.testing.assert_close(inverse, expected[1])


@pytest.mark.parametrize("size", [1, 2])
def test_swaps_never_raise_the_error_and_mend_a_greedy_choice(size: int) -> None:
    better = best = 0
    for seed in range(20):
        weight, gram = problem(seed)
        count = 12 // size
        greedy = eliminate(weight, gram.clone(), size)[: count // 2].sort().values
        found = swap(weight, gram, size, greedy, 3)
        assert len(found.unique()) == len(greedy)
        before, after = (error(weight, gram, of(kept.tolist(), size)) for kept in (greedy, found))
        optimum = min(error(weight, gram, of(s, size)) for s in combinations(range(count), count // 2))
        assert optimum - 1e-9 <= after <= before + 1e-9
        better += after < before - 1e-6
        best += after < optimum + 1e-6
    assert better >= 2
    assert best >= 10


def test_projections_are_ridge_fits_to_dense_outputs_on_inputs_of_the_pruned_model(setting: Setting) -> None:
    run, x = setting.runner, setting.embed(setting.fit)
    for dense, pruned in zip(setting.layers, prune(setting, setting.uniform(0.6)), strict=True):
        for name, first, context, step in (
            (O_PROJ, Q_PROJ, run.attention_context, run.attention),
            (DOWN_PROJ, UP_PROJ, run.ffn_context, run.ffn),
        ):
            inputs = context(dense, x).flatten(0, 1).double()
            left = torch.cdist(pruned[f"{first}.weight"], dense[f"{first}.weight"]).argmin(1)
            root = (1e-2 * inputs.square().mean()).sqrt() * (len(inputs) ** 0.5)
            rows = torch.cat([inputs, root * torch.eye(inputs.shape[1])])
            target = rows @ dense[f"{name}.weight"].double().T
            expected = np.linalg.lstsq(rows[:, left].numpy(), target.numpy(), rcond=None)[0]
            assert pruned[f"{name}.weight"].T.numpy() == pytest.approx(expected, abs=2e-4)
            x = step(pruned, x)


@pytest.mark.parametrize("keep", [0.9, 0.6, 0.3])
def test_budget_is_kept_and_used(setting: Setting, keep: float) -> None:
    found, width = osscar(setting, keep), setting.shape.num_layers * 3 * setting.shape.hidden_size
    assert keep * setting.dense_parameters - width < found.parameters <= keep * setting.dense_parameters
    assert found.plan is not None
    assert found.parameters == setting.shape.decoder_parameters(found.plan)


@pytest.mark.parametrize("keep", [0.85, 0.7, 0.6, 0.35])
def test_groups_are_rounded_to_what_held_out_text_prefers(setting: Setting, keep: float) -> None:
    tried, layers = shapes(setting, keep), setting.shape.num_layers
    assert [shape.kv_heads for shape in tried] == [int(keep * 4), int(keep * 4) + 1]
    for shape in tried:
        wider = replace(shape, ffn=shape.ffn + 1)
        small, large = (setting.shape.decoder_parameters([s] * layers) for s in (shape, wider))
        assert small <= keep * setting.dense_parameters < large
    losses = [setting.loss(prune(setting, shape), setting.heldout) for shape in tried]
    assert osscar(setting, keep).plan == Plan((tried[int(np.argmin(losses))],) * layers)


def test_all_parameters_is_dense(setting: Setting) -> None:
    found = osscar(setting, 1.0).logprobs(setting.heldout)
    dense = setting.subnet(list(setting.layers)).logprobs(setting.heldout)
    torch.testing.assert_close(found, dense)


def test_the_same_again(setting: Setting) -> None:
    assert is_deterministic(osscar, setting, 0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_other_llamas(kind: str, tmp_path: Path) -> None:
    other = make_setting(tmp_path, **KINDS[kind])
    found = osscar(other, 0.6)
    assert 0.55 * other.dense_parameters < found.parameters <= 0.6 * other.dense_parameters
    assert bool(found.logprobs(other.heldout).isfinite().all())
