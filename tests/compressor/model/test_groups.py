"""Groups by rule: FineQuant's test against plain loops, fixed sizes, and what each rule rounds to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lathe.compressor.model.groups import (
    ALPHA,
    RULES,
    GroupRule,
    adaptive_group,
    range_ratio,
)
from lathe.compressor.model.rounding import GROUPS, quantize_in_groups, quantize_matrix


def normal(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))


def by_hand(weight: np.ndarray, group: int, smaller: int) -> float:
    ratios = []
    for row in np.abs(weight):
        for start in range(0, len(row), smaller):
            parent = start // group * group
            whole = row[parent : parent + group].max()
            ratios.append(row[start : start + smaller].max() / whole if whole else 1.0)
    return float(np.mean(ratios))


@pytest.mark.parametrize(("columns", "group", "smaller"), [(64, 32, 16), (96, 64, 32), (100, 100, 32)])
def test_the_ratio_is_the_mean_over_smaller_groups(columns: int, group: int, smaller: int) -> None:
    weight = normal(5, columns)
    weight[2, :group] = 0
    assert range_ratio(weight, group, smaller) == pytest.approx(by_hand(weight.numpy(), group, smaller))


def test_groups_are_halved_while_that_narrows_their_range() -> None:
    """Every 64 columns have one outlier: halves of 128 have as large ones, halves of 64 do not."""
    weight = 0.01 * normal(8, 256)
    weight[:, ::64] = 1.0
    assert adaptive_group(weight, [256, 128, 64, 32], 0.9) == 256
    weight[:, 128:] *= 0.1
    assert adaptive_group(weight, [256, 128, 64, 32], 0.9) == 128
    assert adaptive_group(weight, [64, 32], 0.9) == 32
    assert adaptive_group(weight, [64, 32], 0.5) == 64


def test_larger_thresholds_give_no_larger_groups() -> None:
    weight = normal(64, 512) * (1 + 3 * torch.rand(1, 512, generator=torch.Generator().manual_seed(0)))
    found = [adaptive_group(weight, GROUPS, alpha) for alpha in (0.5, 0.8, 0.9, 0.95, 1.1)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (256, 32)


@pytest.mark.parametrize(
    ("size", "groups", "group"), [(128, GROUPS, 128), (128, [64, 32], 64), (32, [64], 64)]
)
def test_a_fixed_size_is_the_next_that_a_matrix_can_have(size: int, groups: list[int], group: int) -> None:
    assert GroupRule(size).group(normal(4, 256), 4, groups) == group


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_is_to_nearest_in_the_rules_group(name: str, bits: int) -> None:
    weight, rule = normal(16, 256), RULES[name]
    found = rule.quantize(weight, bits, GROUPS)
    assert found.group == rule.group(weight, bits, GROUPS)
    assert found.values.equal(quantize_in_groups(weight, bits, found.group).values)
    assert rule.group_of_random(weight, bits, GROUPS) in GROUPS


def test_the_names_that_options_take() -> None:
    assert list(RULES) == ["auto", "adaptive", "32", "64", "128", "256"]
    weight = normal(16, 256)
    assert RULES["auto"].group(weight, 4, GROUPS) == quantize_matrix(weight, 4, GROUPS).group
    assert RULES["adaptive"] == GroupRule(alpha=ALPHA)
    assert RULES["64"] == GroupRule(64)
