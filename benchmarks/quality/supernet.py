"""Týr-the-Pruner's supernet (arXiv 2503.09657, Sec. 2.2, 2.3): every block at several widths, pruned locally.

Local pruning (Eq. 4, Alg. 1), for an output projection W [D, n] with H = X^T X of its inputs and G = H W:
units go one step at a time, those with the least |<G_p, W_p>| + 1/2 W_p ((H^-1)_pp)^-1 W_p^T first; what
stays is fitted to the dense output, H^-1 follows. (For a head the second term is taken of its columns
together, as in the authors' code, the first of each by itself, as in the paper.) The first-order term is
optional: in the paper's ablation (Table 4) it helps, here not always. A step is 16 of 11,008 channels, as in
the paper; damping, 1e-2 of the mean diagonal, and exact fits are those of the code (AMD-AGI/Tyr-the-Pruner).

Expectation error accumulation (Eq. 5): the next block reads the mean of the outputs of all widths, each
weighted by its share of units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.quality.blocks import Kind, Stream, kinds, prune_block, widened
from benchmarks.quality.obs import removal_costs, remove
from benchmarks.quality.setting import Setting
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pruning import rows
from lathe.compressor.reconstruction import damped, reconstruct

_DAMPING = 1e-2
_STEP = 16 / 11008


@dataclass(frozen=True)
class Structure:
    """A block at one width. units: [k] that stay. weight: [D, k * columns] of its output projection."""

    units: torch.Tensor
    weight: torch.Tensor

    def block(self, setting: Setting, index: int, kind: Kind) -> dict[str, torch.Tensor]:
        pruned = prune_block(setting, index, kind, self.units)
        return pruned | {f"{kind.output}.weight": self.weight} if pruned else {}


def supernet(setting: Setting, widths: list[list[int]], first_order: bool) -> list[dict[int, Structure]]:
    """Structures by width of each block, attention and FFN of layer 0 first. widths: in units, per block."""
    stream, found = Stream(setting), []
    for position, counts in enumerate(widths):
        index, kind = position // 2, kinds(setting)[position % 2]
        dense, gram = setting.layers[index], damped(stream.gram(index, kind), _DAMPING)
        structures = local_pruning(dense[f"{kind.output}.weight"], gram, kind, counts, first_order)
        if any(counts):
            stream.advance(index, kind, expected(structures, kind))
        found.append(structures)
    return found


def local_pruning(
    weight: torch.Tensor, gram: torch.Tensor, kind: Kind, counts: list[int], first_order: bool
) -> dict[int, Structure]:
    """Structures of `counts` units of one projection [D, n]. gram: [n, n] float64, damped."""
    steps = max(1, round(kind.units * _STEP))
    order = ranking(weight, gram, kind.columns, steps, min(counts), first_order)
    found = {}
    for count in counts:
        kept = order[:count].sort().values
        fitted = weight if count == kind.units else weight[:, :0]
        if 0 < count < kind.units:
            fitted = reconstruct(weight, gram, rows(kept, kind.columns))
        found[count] = Structure(kept, fitted)
    return found


def ranking(
    weight: torch.Tensor, gram: torch.Tensor, block: int, steps: int, least: int, first_order: bool
) -> torch.Tensor:
    """Blocks of columns, those that stay longest first; the first `least` in any order.

    steps: blocks removed before scores are computed again. first_order: whether the score has that term.
    """
    w, gradient = weight.double(), weight.double() @ gram
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    alive, gone = torch.arange(len(gram) // block), []
    while len(alive) > least:
        scores = removal_costs(w, inverse, block) / 2
        if first_order:
            scores += (w * gradient).sum(0).abs().view(-1, block).sum(1)
        out = scores.argsort(stable=True)[: min(steps, len(alive) - least)]
        gone.append(alive[out].flip(0))
        stays = torch.ones(len(alive), dtype=torch.bool)
        stays[out] = False
        alive, columns = alive[stays], stays.repeat_interleave(block)
        if len(alive):
            w, inverse = remove(w, inverse, columns)
            gradient = gradient[:, columns]
    return torch.cat([alive, *reversed(gone)])


def expected(structures: dict[int, Structure], kind: Kind) -> torch.Tensor:
    """[D, n]: the projection whose output is the weighted mean of those of all structures (Eq. 5)."""
    outputs = (count * widened(s.weight, s.units, kind) for count, s in structures.items())
    return torch.stack(list(outputs)).sum(0) / sum(structures)


def widths_around(setting: Setting, plan: tuple[int, ...], interval: float) -> list[list[int]]:
    """Nine widths per block at most, `interval` (a share of units, one unit at least) apart."""
    found = []
    for position, width in enumerate(plan):
        kind = kinds(setting)[position % 2]
        step = max(1, round(kind.units * interval))
        around = (width + i * step for i in range(-4, 5))
        found.append([w for w in around if 0 <= w <= kind.units])
    return found


def layers(setting: Setting, structures: list[dict[int, Structure]], plan: tuple[int, ...]) -> list[Weights]:
    """A subnet's layers: the supernet's weights of the chosen widths."""
    both = kinds(setting)
    blocks = [structures[i][width].block(setting, i // 2, both[i % 2]) for i, width in enumerate(plan)]
    return [attention | ffn for attention, ffn in zip(blocks[::2], blocks[1::2], strict=True)]
