"""Solving a batch of linear systems one by one.

After `torch.set_num_threads` was called with more than one thread, PyTorch's LU factorizations of a batch
(`linalg.solve`, `inv`, `lu_factor`, `slogdet`) on the processor return wrong numbers, or an error about
pivots, from some 150 rows on (seen in 2.13.0 with oneMKL; pytorch issue 142815). Single systems are solved
rightly.
"""

from __future__ import annotations

import torch


def solve_each(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns the solutions X [N, n, k] of left[i] X[i] = right[i].

    Args:
        left: [N, n, n].
        right: [N, n, k].

    Raises:
        torch.linalg.LinAlgError: a system is singular.
    """
    return torch.stack([torch.linalg.solve(a, b) for a, b in zip(left, right, strict=True)])
