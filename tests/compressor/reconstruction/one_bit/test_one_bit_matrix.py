"""Binarized matrices: what later columns make up for, what binarizations take, and how they compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lathe.compressor.reconstruction.error_feedback import inverse_factor, with_inputs
from lathe.compressor.reconstruction.one_bit.arb import arb
from lathe.compressor.reconstruction.one_bit.haar import haar, inverse_haar
from lathe.compressor.reconstruction.one_bit.hbllm import filled, hbllm
from lathe.compressor.reconstruction.one_bit.levels import sign
from lathe.compressor.reconstruction.one_bit.matrix import BLOCK, binarize_matrix
from lathe.compressor.reconstruction.one_bit.registry import BlockCode, binarizations
from lathe.compressor.reconstruction.one_bit.row_column import Scales, refine_once, refine_twice
from lathe.compressor.reconstruction.one_bit.row_groups import in_row_groups
from lathe.compressor.reconstruction.one_bit.saliency import salient_columns
from lathe.compressor.reconstruction.one_bit.storage import Storage

NAMES = ("arb", "billm", "hbllm")


def problem(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix and the Gram matrix of correlated inputs of uneven sizes."""
    generator = torch.Generator().manual_seed(rows * columns)
    weight = torch.randn(rows, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    sizes = torch.linspace(0.2, 2.0, columns)[torch.randperm(columns, generator=generator)]
    inputs = (torch.randn(4 * columns, columns, generator=generator) @ mixing) * sizes
    return weight, (inputs.T @ inputs / len(inputs)).double()


def binarized(name: str, weight: torch.Tensor, gram: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    return binarize_matrix(weight, inverse_factor(with_inputs(gram)), binarizations.get(name), block).values


def output_error(values: torch.Tensor, weight: torch.Tensor, gram: torch.Tensor) -> float:
    change = (values - weight).double()
    return float((change @ gram * change).sum() / (weight.double() @ gram * weight).sum())


@pytest.mark.parametrize("name", NAMES)
def test_columns_that_are_left_are_at_their_optimum_when_a_block_begins(name: str) -> None:
    """GPTQ's identity: with the columns before them fixed, their change is that of least squares."""
    weight, gram = problem(6, 40)
    begun: list[torch.Tensor] = []

    def spied(block_RK: torch.Tensor, factors_K: torch.Tensor) -> BlockCode:
        begun.append(block_RK)
        return binarizations.get(name)(block_RK, factors_K)

    values = binarize_matrix(weight, inverse_factor(gram), spied, block=16).values.double().numpy()
    damped = gram.numpy() + 0.01 * float(gram.diagonal().mean()) * np.eye(40)
    assert [part.shape[1] for part in begun] == [16, 16, 8]
    for start, part in zip((16, 32), begun[1:], strict=True):
        error = weight.double().numpy()[:, :start] - values[:, :start]
        change = error @ damped[:start, start:] @ np.linalg.inv(damped[start:, start:])
        optimum = (weight.double().numpy()[:, start:] + change)[:, : part.shape[1]]
        np.testing.assert_allclose(part.numpy(), optimum, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_change_less_than_by_signs_alone_or_without_feedback(name: str) -> None:
    weight = problem(48, 256)[0] * torch.linspace(0.3, 2, 256)
    inputs = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).double()
    gram = inputs.T @ inputs / 64 + 0.1 * torch.eye(256)
    signs = sign(weight) * weight.abs().mean(1, keepdim=True)
    own = output_error(binarized(name, weight, gram), weight, gram)
    alone = output_error(binarized(name, weight, torch.diag(gram.diagonal())), weight, gram)
    assert own < 0.85 * alone
    assert own < 0.3 * output_error(signs, weight, gram)


def test_rivals_err_less_than_billm_on_columns_of_uneven_size() -> None:
    weight, gram = problem(48, 128)
    weight = weight * (torch.rand(128, generator=torch.Generator().manual_seed(5)) + 0.2)
    billm, *others = (output_error(binarized(name, weight, gram), weight, gram) for name in ("billm", *NAMES))
    assert others[0] < 0.9 * billm


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 1), (1, 9), (5, 129), (4, 70)])
def test_any_shape_and_inputs_that_are_always_zero(name: str, rows: int, columns: int) -> None:
    weight, gram = problem(rows, columns)
    gram[:, 0] = gram[0] = 0
    before = weight.clone()
    found = binarize_matrix(weight, inverse_factor(with_inputs(gram)), binarizations.get(name))
    assert found.values.shape == weight.shape
    assert found.values.isfinite().all()
    assert found.storage.weights == weight.numel()
    assert torch.equal(weight, before)


def test_scales_of_rows_and_columns_find_a_product_again() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.rand(8, generator=generator) + 0.5, torch.rand(16, generator=generator) + 0.5
    signs = sign(torch.randn(8, 16, generator=generator))
    mask = (torch.rand(8, 16, generator=generator) > 0.3).float()
    values = rows[:, None] * columns * signs
    found = refine_once(values, mask)
    torch.testing.assert_close(found * mask, values.abs() * mask, rtol=0.01, atol=1e-3)


def test_no_refinement_raises_the_error() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(12, 20, generator=generator)
    mask = (torch.rand(12, 20, generator=generator) > 0.4).float()
    scales = Scales.of_rows(values.abs(), mask)
    errors = [float(((values.abs() - scales.magnitudes) * mask).square().sum())]
    for _ in range(5):
        scales.refine(values.abs(), mask)
        errors.append(float(((values.abs() - scales.magnitudes) * mask).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]

    def left(first: torch.Tensor, second: torch.Tensor) -> float:
        sizes = values.abs()
        levels = torch.stack([first + second, (first - second).abs()])
        return float(((levels - sizes).abs().amin(0) * mask).square().sum())

    once = refine_once(values, mask)
    assert left(*refine_twice(values, mask)) < 0.5 * left(once, torch.zeros_like(once))


def test_what_arb_stores_is_counted() -> None:
    weight, gram = problem(10, 128)
    factors = inverse_factor(gram).diagonal()
    salient = int(salient_columns(weight, factors).sum())
    signs = masks = scales = 0
    for column in range(128):
        is_salient = column < salient
        masks += 1 + 10  # its kind; the group of each weight
        signs += 10 * (2 if is_salient else 1)
        scales += 2 * (2 if is_salient else 1)  # one for each group and term
    scales += 10 * 2 * (1 + 2)  # of rows: groups, of one term and of two
    assert arb(weight, factors).storage == Storage(1280, signs, masks, scales)


def test_what_hbllm_stores_is_counted() -> None:
    weight, gram = problem(9, 31)
    factors = inverse_factor(gram).diagonal()
    salient = int(salient_columns(weight, factors).sum())
    coefficients = 9 * 32 + 10 * salient  # with the column and the row that make numbers even
    scales = 9 * 2 * (2 + 1) + 5 * 2 * 2 * 2
    assert hbllm(weight, factors).storage == Storage(9 * 31, coefficients, coefficients + 31, scales)


def test_bits_add_up_over_blocks() -> None:
    weight, gram = problem(10, 200)
    found = binarize_matrix(weight, inverse_factor(gram), binarizations.get("billm")).storage
    assert found.weights == 2000
    assert found.effective == pytest.approx(2 + 2 * 10 * 7 * 16 / 2000 + 200 / 2000)
    assert 1 < found.nominal < 1.5


def test_the_haar_transform_keeps_lengths_and_is_undone_by_its_inverse() -> None:
    values = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    low, high = haar(values)
    assert float(low.square().sum() + high.square().sum()) == pytest.approx(float(values.square().sum()))
    torch.testing.assert_close(inverse_haar(low, high), values)


def test_salient_columns_are_filled_with_the_mean_of_their_neighbours() -> None:
    values, salient = torch.arange(12.0)[None].repeat(2, 1), torch.zeros(12, dtype=torch.bool)
    salient[[0, 5, 6]] = True
    found = filled(values, salient)
    means = 2, (2 + 3 + 4 + 7 + 8) / 5, (3 + 4 + 7 + 8 + 9) / 5
    assert found[0].tolist() == pytest.approx([means[0], 1, 2, 3, 4, *means[1:], *range(7, 12)])


@pytest.mark.parametrize("one_mean", [True, False])
def test_groups_of_rows_are_the_best_of_all_break_points(one_mean: bool) -> None:
    values = torch.randn(6, 16, generator=torch.Generator().manual_seed(3)) + 0.3
    found = in_row_groups(values, one_mean)
    for row, taken in zip(values.double().numpy(), found.double().numpy(), strict=True):
        errors = []
        for point in np.quantile(abs(row), np.linspace(0.1, 0.9, 41)):
            error = 0.0
            for part in (row[abs(row) < point], row[abs(row) >= point]):
                mean = row.mean() if one_mean else part.mean() if len(part) else 0.0
                size = abs(part - mean).mean() if len(part) else 0.0
                error += np.square(abs(part - mean) - size).sum()
            errors.append(error)
        assert np.square(row - taken).sum() == pytest.approx(min(errors), rel=0.02)
        assert len(set(taken.round(5))) <= 4
