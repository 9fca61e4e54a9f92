"""The paper's initialisation score (arXiv 2409.17372, Eq. 1 and Sec. 3.2), channels scored once.

Phi_ij = W_ij^2 / [(2 X X^T)^-1]_jj; a row's score is its sum over j, a column's over i. An attention
unit adds the rows of q, k, v and the columns of o; an FFN channel the rows of gate, up and the columns
of down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lathe.artefact.plan import ModelShape
from lathe.compressor.compute.device import CPU
from lathe.compressor.importance.base import importance_methods, reads_block_inputs
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.names import DOWN_PROJ, GATE_PROJ, K_PROJ, O_PROJ, Q_PROJ, UP_PROJ, V_PROJ
from lathe.compressor.model.pruning import ImportanceRanking
from lathe.compressor.reconstruction import damped
from lathe.compressor.statistics import LayerStatistics

_DAMPING = 1e-2


def saliency(weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Returns Phi [rows, columns] of a linear layer whose inputs have this Gram matrix."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(2 * damped(gram, _DAMPING)))
    return weight.double().square() / inverse.diagonal()


@dataclass(frozen=True)
class Scores:
    """Float64 scores of one layer's units.

    Attributes:
        query: [N*H], rows of q with columns of o.
        kv: [K*H], rows of k and v.
        channels: [F].
    """

    query: torch.Tensor
    kv: torch.Tensor
    channels: torch.Tensor


def unit_scores(weights: Weights, statistics: LayerStatistics) -> Scores:
    """Computes the sums of Eq. 2 and 3 on the CPU, those of query and KV heads separately."""

    def rows(name: str, gram: torch.Tensor) -> torch.Tensor:
        return saliency(weights[f"{name}.weight"], gram).sum(1).to(CPU)

    def columns(name: str, gram: torch.Tensor) -> torch.Tensor:
        return saliency(weights[f"{name}.weight"], gram).sum(0).to(CPU)

    attention, ffn = statistics.attention_input, statistics.ffn_input
    channels = rows(UP_PROJ, ffn)
    if f"{GATE_PROJ}.weight" in weights:
        channels = rows(GATE_PROJ, ffn) + channels
    return Scores(
        rows(Q_PROJ, attention) + columns(O_PROJ, statistics.attention),
        rows(K_PROJ, attention) + rows(V_PROJ, attention),
        channels + columns(DOWN_PROJ, statistics.ffn),
    )


@importance_methods.register("paper")
@reads_block_inputs
def paper(shape: ModelShape, weights: Weights, statistics: LayerStatistics) -> ImportanceRanking:
    """Ranks groups, heads and channels by the paper's initialisation score."""
    scores, per_group = unit_scores(weights, statistics), shape.layer.heads_per_group
    by_group = scores.query.view(-1, per_group, shape.head_dim).sum(2)
    kv = scores.kv.view(-1, shape.head_dim).sum(1)
    first = torch.arange(len(by_group))[:, None] * per_group
    return ImportanceRanking(
        (by_group.sum(1) + kv).argsort(descending=True),
        first + by_group.argsort(1, descending=True),
        scores.channels.argsort(descending=True),
    )
