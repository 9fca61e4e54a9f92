"""OSSCAR (Meng et al., ICML 2024, arXiv 2403.12983): uniform widths, greedy removal, local search by swaps.

Each output projection (o_proj, down_proj) in turn, its inputs X read from the model pruned so far, is fitted
to its own dense output on them: min ||W X - W0 X||^2 over which blocks of columns stay and over W, the
paper's layer-wise objective. Greedy stage: the block whose removal costs least goes, W and the inverse Gram
matrix follow, as in ZipLM (arXiv 2302.04089). Local search: of the blocks that stay the t that cost least go
out, of those outside the t that gain most come in; a swap that does not lower the error halves t, until 1
fails. W is solved exactly in the end.

Settings are those of the authors' code (mazumder-lab/OSSCAR): damping of 1e-2 of the mean diagonal on the
Gram matrix of both sides (it pulls towards W0), at most 30 swaps that start at ten channels or five heads.
Chosen here: KV groups for heads; blocks go one by one (the code: ten channels, two heads at once) up to 512
channels; local search in every projection (the code leaves it to a switch); the FFN reads what its own
layer's pruned attention gives (the code prunes both on one pass). Where `keep` is no whole number of groups,
held-out text says whether to round down or up; the FFN fills the budget.
"""

from __future__ import annotations

from math import ceil, floor

import torch

from benchmarks.quality.blocks import Stream, kinds, prune_block, widened
from benchmarks.quality.obs import removal_costs, return_gains, solve
from benchmarks.quality.setting import Setting, Subnet, baselines
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.importance.elimination import eliminate
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pruning import rows
from lathe.compressor.reconstruction import damped, reconstruct

_DAMPING = 1e-2
_STEPS = 512
_SWAPS = {"attention": 5, "ffn": 10}
_ITERATIONS = 30


@baselines.register("osscar")
def osscar(setting: Setting, keep: float) -> Subnet:
    tried = [(prune(setting, shape), shape) for shape in shapes(setting, keep)]
    layers, shape = min(tried, key=lambda one: setting.loss(one[0], setting.heldout))
    return setting.subnet(layers, candidates=len(tried), plan=Plan((shape,) * len(layers)))


def shapes(setting: Setting, keep: float) -> list[LayerShape]:
    """Widths that fill the budget, attention at `keep` rounded down and up to whole groups."""
    (attention, ffn), shape, found = kinds(setting), setting.shape, []
    pruned = attention.units * attention.parameters + ffn.units * ffn.parameters
    dense = setting.dense_parameters / shape.num_layers
    exact = keep * attention.units
    for groups in sorted({floor(exact), ceil(exact)} - {0}):
        width = int((keep * dense - (dense - pruned) - groups * attention.parameters) // ffn.parameters)
        if 0 < width <= ffn.units:
            found.append(LayerShape(groups * shape.layer.heads_per_group, groups, width))
    return found or [setting.uniform(keep)]


def prune(setting: Setting, shape: LayerShape) -> list[Weights]:
    """Layers of these widths."""
    stream = Stream(setting)
    layers: list[Weights] = []
    for index, dense in enumerate(setting.layers):
        finished: dict[str, torch.Tensor] = {}
        for kind, count in zip(kinds(setting), (shape.kv_heads, shape.ffn), strict=True):
            if not count:
                continue
            kept, weight = torch.arange(kind.units), dense[f"{kind.output}.weight"]
            gram = damped(stream.gram(index, kind), _DAMPING)
            if count < kind.units:
                steps = max(1, kind.units // _STEPS)
                kept = eliminate(weight, gram.clone(), kind.columns, steps)[:count].sort().values
                kept = swap(weight, gram, kind.columns, kept, _SWAPS[kind.name])
                weight = reconstruct(weight, gram, rows(kept, kind.columns))
            stream.advance(index, kind, widened(weight, kept, kind))
            finished |= prune_block(setting, index, kind, kept) | {f"{kind.output}.weight": weight}
        layers.append(finished)
    return layers


def swap(weight: torch.Tensor, gram: torch.Tensor, block: int, kept: torch.Tensor, most: int) -> torch.Tensor:
    """Blocks [k] that stay after local search from `kept`, ascending; as many as before.

    Args:
        weight: [D, n] dense projection.
        gram: [n, n] float64, damped.
        block: columns of a block.
        kept: the blocks to start from, ascending.
        most: blocks exchanged at once at first.
    """
    cross = gram @ weight.double().T
    count = min(most, len(kept) - 1, len(gram) // block - len(kept))
    error = _error(gram, cross, rows(kept, block))
    for _ in range(_ITERATIONS):
        if count < 1:
            break
        trial = _exchanged(gram, cross, block, kept, count)
        new = _error(gram, cross, rows(trial, block))
        if new < error - 1e-9 * abs(error):
            kept, error = trial, new
        else:
            count //= 2
    return kept


def _exchanged(
    gram: torch.Tensor, cross: torch.Tensor, block: int, kept: torch.Tensor, count: int
) -> torch.Tensor:
    """The cheapest blocks out at once, then the most gainful in."""
    columns = rows(kept, block)
    weight, inverse = solve(gram[columns][:, columns], cross[columns])
    inside = kept[removal_costs(weight, inverse, block).argsort(stable=True)[count:]].sort().values
    mask = torch.ones(len(gram) // block, dtype=torch.bool)
    mask[inside] = False
    outside = mask.nonzero()[:, 0]
    gains = return_gains(gram, cross, rows(inside, block), rows(outside, block), block)
    back = outside[gains.argsort(descending=True, stable=True)[:count]]
    return torch.cat([inside, back]).sort().values


def _error(gram: torch.Tensor, cross: torch.Tensor, columns: torch.Tensor) -> float:
    """Squared error of the fit on some columns, less the constant ||W0 X||^2."""
    weight, _ = solve(gram[columns][:, columns], cross[columns])
    return -float((weight.T * cross[columns]).sum())
