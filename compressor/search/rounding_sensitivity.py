"""What rounding alone does to the output: each dense block, and embedding and head, at each number of bits.

Matrices are rounded with compensation, from the Gram matrices of their inputs in the dense model. The errors
of rounding and of pruning a block are taken as independent, so that their KL adds up; that of rounding is
taken as proportional to the weights that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, Plan
from lathe.compressor.compute.array_store import ArrayLike
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.embedding import with_table
from lathe.compressor.model.groups import BY_ERROR
from lathe.compressor.model.names import EMBEDDING, LM_HEAD
from lathe.compressor.reconstruction.rounded_block import round_block
from lathe.compressor.reconstruction.rounded_head import round_head
from lathe.compressor.search.block_library import alone_in_layer
from lathe.compressor.search.fitness import Fitness
from lathe.compressor.search.method import Problem
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import Choices, Constraint, Level
from lathe.compressor.statistics.gram import Gram

_WORTH = 0.005
_ROWS = 4
"""Windows per batch."""


@dataclass(frozen=True)
class RoundingTable:
    """KL(dense || rounded) in nats per token.

    Attributes:
        problem: The problem; it has a `mixed` space.
        blocks: [blocks, bits] of each dense block rounded alone, in the order of `MixedSpace.bits`.
        head: Of embedding and head, in the order of `MixedSpace.head`.
    """

    problem: Problem
    blocks: np.ndarray
    head: np.ndarray

    def joined(self, pruning: np.ndarray) -> np.ndarray:
        """Returns the table of the mixed space.

        Args:
            pruning: Object array [blocks] of [widths]: KL of each block pruned alone.

        Returns:
            Object array [blocks + 1] of [levels], the head last.
        """
        space = self._space
        table = np.empty(len(pruning) + 1, dtype=object)
        for position, row in enumerate(pruning):
            kind = BLOCK_KINDS[position % 2]
            levels = [space.at(index) for index in range(len(space.levels(kind)))]
            table[position] = np.array(
                [row[width] + self._of_level(position, width, bits) for width, bits in levels]
            )
        table[-1] = self.head
        return table

    def of(self, plan: Plan) -> float:
        """Returns the sum over a plan's blocks, embedding and head."""
        widths = self._space.widths.indices(plan.unrounded)
        bits = [layer.bits(kind) for layer in plan for kind in BLOCK_KINDS]
        of_blocks = (self._of_level(at, *level) for at, level in enumerate(zip(widths, bits, strict=True)))
        return sum(of_blocks) + float(self.head[self._space.head.index(plan.head_bits)])

    @property
    def _space(self) -> MixedSpace:
        assert self.problem.mixed is not None
        return self.problem.mixed

    def _of_level(self, position: int, width: int, bits: int) -> float:
        if not bits:
            return 0.0
        kind, space = BLOCK_KINDS[position % 2], self._space.widths
        kept, dense = (self._parameters(kind, space.levels(kind)[at]) for at in (width, 0))
        return float(self.blocks[position][self._space.bits.index(bits)]) * kept / dense

    def _parameters(self, kind: BlockKind, level: Level) -> int:
        shape, alone = self.problem.source.shape, Plan((alone_in_layer(kind, level),))
        return shape.decoder_parameters(alone)


def priced(sensitivities: np.ndarray, space: Choices, constraints: Sequence[Constraint]) -> np.ndarray:
    """Returns a table in which levels that cost more lose a little more.

    Many plans of rounded weights lose next to nothing. Of these, a search finds a cheap one by it.

    Args:
        sensitivities: Object array [blocks] of [levels].
        space: The levels.
        constraints: What they cost. A budget spent to the last counts `_WORTH` nats per token.
    """
    table = sensitivities.copy()
    for position, (_, kind) in enumerate(space.blocks):
        costs = sum(np.array(c.costs(space, kind)) / c.limit for c in constraints)
        table[position] = sensitivities[position] + _WORTH * costs
    return table


def rounding_table(problem: Problem, fitness: Fitness) -> RoundingTable:
    """Measures what rounding does; what the trace has is not measured again.

    Args:
        problem: The problem; it has a `mixed` space.
        fitness: Evaluates changes of single blocks.
    """
    assert problem.mixed is not None
    bits, positions = problem.mixed.bits, range(2 * len(problem.layers))
    known = all(problem.trace.knows(_key(problem, f"{at} {b}")) for at in positions for b in bits)
    with problem.progress.stage("search: sensitivity of each block to rounding", len(positions) + 1) as bar:
        blocks = np.zeros((len(positions), len(bits)))
        measured = iter(()) if known else _measure(problem, fitness, bits)
        for at in positions:
            found = [0.0] * len(bits) if known else next(measured)
            for number, value in enumerate(found):
                layer, kind = at // 2, BLOCK_KINDS[at % 2]
                blocks[at, number] = problem.trace.evaluate(
                    _key(problem, f"{at} {bits[number]}"), partial(max, 0.0, value), layer=layer, block=kind
                )
            bar.advance()
        head = [
            problem.trace.evaluate(_key(problem, f"head {b}"), partial(_of_head, problem, fitness, b))
            for b in problem.mixed.head
        ]
        bar.advance()
    return RoundingTable(problem, blocks, np.array(head))


def _key(problem: Problem, what: str) -> str:
    return f"rounding {what}" + ("" if problem.groups == BY_ERROR else f" {problem.groups}")


def _measure(problem: Problem, fitness: Fitness, bits: Sequence[int]) -> Iterator[list[float]]:
    """Yields the KL of each block at each number of bits, in the order in which the model runs them."""
    parts = torch.arange(len(problem.fitted)).split(_ROWS)
    hidden = problem.model.embedded(problem.fitted, problem.store, parts)
    for position in range(2 * len(problem.layers)):
        runner, kind = problem.runner.at(position // 2), BLOCK_KINDS[position % 2]
        weights = problem.layers[position // 2]
        grams, hidden = _grams(problem, runner, kind, weights, hidden, parts)
        blocks = []
        for count in bits:
            rounded = round_block(weights, grams, bits=count, groups=problem.groups)
            blocks.append({**weights, **{name: matrix.values for name, matrix in rounded.items()}})
        yield fitness.changed(position, blocks)


@torch.inference_mode()
def _grams(
    problem: Problem,
    runner: BlockRunner,
    kind: BlockKind,
    weights: Weights,
    hidden: ArrayLike,
    parts: Sequence[torch.Tensor],
) -> tuple[dict[str, torch.Tensor], ArrayLike]:
    """Returns the Gram matrices of the inputs of a block's matrices, by name, and the states after it."""
    sums: dict[str, Gram] = {}
    same: dict[str, str] = {}

    def run(state: torch.Tensor) -> torch.Tensor:
        with runner.watch(kind) as seen:
            after = runner.block(kind, weights, state)
        readers: dict[int, str] = {}
        for name, (x, _) in seen.items():
            same[name] = readers.setdefault(id(x), name)
            if same[name] == name:
                sums.setdefault(name, Gram(x.shape[-1])).add_batch(x)
        return after

    moved = problem.store.mapped(hidden, parts, run)
    found = {name: gram.finalize() for name, gram in sums.items()}
    return {name: found[reader] for name, reader in same.items()}, moved


def _of_head(problem: Problem, fitness: Fitness, bits: int) -> float:
    """Measures embedding and head in so many bits."""
    if not bits:
        return 0.0
    store, device = problem.store, problem.store.device
    tables = round_head(problem.model, problem.fitted, bits, store, groups=problem.groups)
    embedding = tables[f"{EMBEDDING}.weight"].values.to(device)
    head = tables[f"{LM_HEAD}.weight"].values.to(device) if f"{LM_HEAD}.weight" in tables else embedding
    ends = with_table(problem.embedding, embedding), problem.head.with_weight(head)
    return max(0.0, fitness.measure_ends(*ends))
