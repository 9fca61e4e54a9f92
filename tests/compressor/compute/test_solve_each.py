"""Systems are solved rightly by any number of threads, which PyTorch's own batches are not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lathe.compressor.compute.solve_each import solve_each
from lathe.compressor.importance.elimination import eliminate
from lathe.compressor.reconstruction import damped


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solutions_solve_the_systems(threads: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(threads)
    left = torch.randn(3, 192, 192, generator=generator, dtype=dtype) + 30 * torch.eye(192, dtype=dtype)
    right = torch.randn(3, 192, 5, generator=generator, dtype=dtype)
    torch.testing.assert_close(left @ solve_each(left, right), right, rtol=0, atol=1e-4)


def test_wide_groups_are_ranked_alike_by_any_number_of_threads(threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(900, 640, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.1, 3.0, 1.0, 0.3]).double().repeat_interleave(160)
    weight = torch.randn(16, 640, generator=generator)
    gram = damped((x * scale).T @ (x * scale) / len(x), 1e-3)
    assert eliminate(weight, gram, 160).tolist() == [1, 2, 3, 0]
