"""The paper's initialisation score (arXiv 2409.17372, Eq. 1 and Sec. 3.2), channels scored once.

Phi_ij = W_ij^2 / [(2 X X^T)^-1]_jj; a row's score is its sum over j, a column's over i. An attention
unit adds the rows of q, k, v and the columns of o; an FFN channel the rows of gate, up and the columns
of down.
"""

from __future__ import annotations

import torch

from compressor.families import Family
from compressor.forward import Weights
from compressor.order.base import orders
from compressor.plan import ModelShape
from compressor.reform import damped
from compressor.statistics import LayerStatistics
from compressor.surgery import LayerOrder

_DAMPING = 1e-2


def saliency(weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Phi [rows, columns] of a linear layer that reads inputs with this Gram matrix."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(2 * damped(gram, _DAMPING)))
    return weight.double().square() / inverse.diagonal()


@orders.register("paper")
def paper(family: Family, shape: ModelShape, weights: Weights, statistics: LayerStatistics) -> LayerOrder:
    def rows(name: str, gram: torch.Tensor) -> torch.Tensor:
        return saliency(weights[f"{name}.weight"], gram).sum(1)

    def heads(scores: torch.Tensor) -> torch.Tensor:
        return scores.view(-1, shape.head_dim).sum(1)

    per_group = shape.layer.heads_per_group
    o = saliency(weights[f"{family.o}.weight"], statistics.attention).sum(0)
    query = heads(rows(family.q, statistics.attention_input)) + heads(o)
    kv = heads(rows(family.k, statistics.attention_input) + rows(family.v, statistics.attention_input))
    by_group = query.view(-1, per_group)
    channels = (
        rows(family.gate, statistics.ffn_input)
        + rows(family.up, statistics.ffn_input)
        + saliency(weights[f"{family.down}.weight"], statistics.ffn).sum(0)
    )
    first = torch.arange(len(by_group))[:, None] * per_group
    return LayerOrder(
        (by_group.sum(1) + kv).argsort(descending=True),
        first + by_group.argsort(1, descending=True),
        channels.argsort(descending=True),
    )
