"""The factor that errors are fed back by, against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lathe.compressor.reconstruction.error_feedback import inverse_factor


@pytest.mark.parametrize("columns", [1, 7, 96])
@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_it_is_the_upper_cholesky_factor_of_the_inverse(columns: int, damping: float) -> None:
    inputs = torch.randn(2 * columns, columns, generator=torch.Generator().manual_seed(columns)).double()
    gram = inputs.T @ inputs / len(inputs)
    damped = gram.numpy() + damping * gram.numpy().diagonal().mean() * np.eye(columns)
    expected = np.linalg.cholesky(np.linalg.inv(damped)).T
    found = inverse_factor(gram, damping)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
