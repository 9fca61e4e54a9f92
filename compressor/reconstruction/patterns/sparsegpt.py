"""SparseGPT: columns are settled one after another, and those that follow make up for what is removed.

(Frantar and Alistarh, arXiv 2301.00774, Sec. 3.) Weights of a group that cost least by themselves,
w^2 / U[c, c]^2 with U the inverse's factor, are chosen when all columns before the group are settled. Then
the mask stays, and so does every column that is settled.
"""

from __future__ import annotations

import torch

from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.error_feedback import (
    Settle,
    inverse_factor,
    settle_columns,
    with_inputs,
)
from lathe.compressor.reconstruction.patterns.choice import highest
from lathe.compressor.reconstruction.patterns.registry import PatternMethod, pattern_methods

COLUMNS = 128
"""About the columns whose errors are spread over all behind them as one product."""


def prune(weight_RC: torch.Tensor, gram_CC: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Prunes a matrix."""
    upper_CC, group = inverse_factor(with_inputs(gram_CC)), pattern.group
    factors_C = upper_CC.diagonal()

    def begin(start: int, part_KR: torch.Tensor) -> Settle:
        kept = torch.empty_like(part_KR, dtype=torch.bool)

        def settle(at: int, column_R: torch.Tensor) -> torch.Tensor:
            if at % group == 0:
                scores = part_KR[at : at + group] / factors_C[start + at : start + at + group, None]
                kept[at : at + group] = highest(scores.square().T, pattern).T
            return column_R * kept[at]

        return settle

    return settle_columns(weight_RC.float(), upper_CC, COLUMNS // group * group, begin)


pattern_methods.add("sparsegpt", PatternMethod(prune))
