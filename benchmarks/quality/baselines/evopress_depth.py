"""EvoPress on depth (Sieberling et al., ICML 2025, arXiv 2410.14649): which attention and FFN blocks to drop.

A (1 + lambda) evolutionary search (Alg. 1): of random subnets the best is the first parent; each generation
mutates it by level switches, one to three, fewer more often (a dropped block comes back, a kept one goes),
and selects in steps of growing token counts by KL to the dense model, windows drawn anew; the parent takes
part in the last step. Attention and FFN blocks are dropped apart, weights stay as they are.

Settings of the authors' depth runs: 64 subnets at first, 32 offspring, 2 survivors of the first step, and
k (n - k) / 1.5 generations for k of n layers dropped. Scaled down: steps of 1K and 8K tokens for 2K and 32K.
Chosen here: the budget is in parameters, of which an FFN block has more than an attention block. A switch may
join blocks of two kinds; random blocks then go until the budget holds, and others come back while they fit.
The paper's own start, as many blocks of either kind, is drawn the same way.
"""

from __future__ import annotations

import random

from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.subnet_evaluator import Levels, SubnetEvaluator
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.names import DOWN_PROJ, FFN_NORM, GATE_PROJ, UP_PROJ

_FIRST = 64
_OFFSPRING = 32
_STEPS = ((1024, 2), (8192, 1))
"""Tokens and survivors."""


@baselines.register("evopress-depth")
def evopress_depth(setting: Setting, keep: float) -> Subnet:
    rng, layers = random.Random(setting.seed), setting.shape.num_layers
    space, gone = Depth(setting, keep, rng), round((1 - keep) * layers)
    limit = setting.evaluations or _FIRST + _OFFSPRING * round(gone * (layers - gone) / 1.5)
    kept, evaluated = search(setting, space, limit, gone)
    shape = setting.shape.layer
    return setting.subnet(
        [_join(setting, kept, i) for i in range(layers)],
        candidates=evaluated,
        plan=Plan(
            tuple(
                LayerShape(shape.query_heads * a, shape.kv_heads * a, shape.ffn * f)
                for a, f in zip(kept[::2], kept[1::2], strict=True)
            )
        ),
    )


class Depth:
    """Subnets as one flag per block, 1 if it is kept: within the budget, with room for no other block."""

    def __init__(self, setting: Setting, keep: float, rng: random.Random) -> None:
        shape, self._rng, self._budget = setting.shape, rng, keep * setting.dense_parameters
        both = (shape.attention_parameters(shape.layer), shape.ffn_parameters(shape.layer))
        self._costs = both * shape.num_layers

    def random(self, gone: int) -> Levels:
        """Without `gone` blocks of either kind, more or fewer as the budget says."""
        flags = [1] * len(self._costs)
        for kind in (0, 1):
            for layer in self._rng.sample(range(len(flags) // 2), gone):
                flags[2 * layer + kind] = 0
        return self._settled(flags)

    def mutate(self, parent: Levels) -> Levels:
        flags = list(parent)
        for _ in range(min(self._rng.randint(1, 3), self._rng.randint(1, 3))):
            out, kept = ([i for i, flag in enumerate(flags) if flag == value] for value in (0, 1))
            if out and kept:
                flags[self._rng.choice(out)] = 1
                flags[self._rng.choice(kept)] = 0
        return self._settled(flags)

    def cost(self, flags: list[int] | Levels) -> int:
        return sum(cost for cost, flag in zip(self._costs, flags, strict=True) if flag)

    def _settled(self, flags: list[int]) -> Levels:
        order = self._rng.sample(range(len(flags)), len(flags))
        for block in order:
            if self.cost(flags) > self._budget:
                flags[block] = 0
        for block in reversed(order):
            if self.cost(flags) + self._costs[block] * (1 - flags[block]) <= self._budget:
                flags[block] = 1
        return tuple(flags)


def search(setting: Setting, space: Depth, limit: int, gone: int) -> tuple[Levels, int]:
    """The best flags, and how many subnets were evaluated, not many more than `limit`."""
    evaluator = SubnetEvaluator(setting, random.Random(setting.seed))

    def block(position: int, kept: int) -> Weights:
        return setting.layers[position // 2] if kept else {}

    first = {space.random(gone) for _ in range(min(limit, _FIRST))}
    parent, evaluated = evaluator.best(first, block, _STEPS[0][0], 1)[0][1], len(first)
    while evaluated < limit:
        offspring = {space.mutate(parent) for _ in range(min(_OFFSPRING, limit - evaluated))} - {parent}
        if not offspring:
            break
        rivals, evaluated = offspring, evaluated + len(offspring)
        for tokens, survivors in _STEPS:
            if survivors == 1:
                rivals |= {parent}
            rivals = {flags for _, flags in evaluator.best(rivals, block, tokens, survivors)}
        parent = next(iter(rivals))
    return parent, evaluated


def _join(setting: Setting, kept: Levels, index: int) -> Weights:
    """A layer's tensors without those of dropped blocks."""
    names = setting.layers[index]
    ffn = (FFN_NORM, GATE_PROJ, UP_PROJ, DOWN_PROJ)
    return {
        name: tensor for name, tensor in names.items() if kept[2 * index + (name.rsplit(".", 1)[0] in ffn)]
    }
