"""The columns of a block that get two signs for a weight: those whose weights matter most.

The saliency of a weight is w^2 / u^2, with u its column's entry on the diagonal of the factor that spreads
errors; that of a column is the sum (BiLLM: Huang et al., arXiv 2402.04291, Sec. 3.2). How many columns there
are is searched as BiLLM's code does: by the least error with which the saliencies themselves, those columns
and the others apart, are binarized twice. The error of the weights would not do: it falls with every column.

Shapes: R rows, K columns of a block.
"""

from __future__ import annotations

import torch

from lathe.compressor.reconstruction.one_bit.binarization import error_twice

_MOST = 50
"""There are fewer salient columns in a block."""
_SEARCHED_ROWS = 512


def salient_columns(block_RK: torch.Tensor, factors_K: torch.Tensor) -> torch.Tensor:
    """Returns which columns are salient, bool [K].

    Args:
        block_RK: The weights.
        factors_K: The diagonal of the columns' `inverse_factor`.
    """
    saliencies = (block_RK / factors_K).square_()
    order = saliencies.sum(0).argsort(descending=True, stable=True)
    seen = some_rows(saliencies)[:, order]

    def error(count: int) -> float:
        return error_twice(seen[:, :count]) + error_twice(seen[:, count:])

    salient = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    salient[order[: min(range(1, min(_MOST, len(order))), key=error, default=0)]] = True
    return salient


def some_rows(values_RK: torch.Tensor) -> torch.Tensor:
    """Returns evenly spaced rows, as many as a search reads."""
    return values_RK[:: -(-len(values_RK) // _SEARCHED_ROWS)]
