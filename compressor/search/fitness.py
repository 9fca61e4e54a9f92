"""Fitness: KL(dense || subnet) in nats per token, over stages of growing token counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, Plan
from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.compute.precision import fast_products
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.embedding import Embedding
from lathe.compressor.model.lm_head import DenseTargets, LMHead
from lathe.compressor.search.sensitivity import ROWS, FisherSensitivity
from lathe.compressor.search.space import Level, Space

_REPLAY_FROM = 0.1
"""The relative squared change of the residual stream after a block from which its effect is replayed."""
_REPLAYED = 2
"""One of so many windows is replayed: the effect is large, and its time grows with the layers above."""
Block = Callable[[int, BlockKind, Level], Weights]


class Fitness:
    """Evaluates plans on a few windows. Consecutive plans share the hidden states of common leading blocks.

    Args:
        runner: Runs blocks.
        head: The dense model's final norm and LM head.
        space: The levels of blocks.
        windows: [B, T] tokens.
        embedding: The dense model's embedding.
        dense: Returns the dense blocks.
        subnet: Returns the blocks of candidates.
        store: Keeps hidden states.
    """

    def __init__(
        self,
        runner: BlockRunner,
        head: LMHead,
        space: Space,
        windows: torch.Tensor,
        embedding: Embedding,
        dense: Block,
        subnet: Block,
        store: ArrayStore | None = None,
    ) -> None:
        self._runner, self._space, self._dense, self._subnet = runner, space, dense, subnet
        self._store = store or ArrayStore()
        widest = [0] * (2 * space.layers)
        self.head, self.windows = head, windows
        self._dense_states = self._states(embedding[windows], dense, widest)
        self._targets = head.targets(self._dense_states[-1][:])
        self._path: list[int] = widest
        self._stack = list(self._dense_states)

    def measure(self, hidden_BTD: torch.Tensor) -> float:
        """Computes KL(dense || subnet) in nats per token from the subnet's last hidden states."""
        return self.head.kl(self._targets, hidden_BTD)

    def evaluate(self, plan: Plan) -> float:
        """Runs a plan and measures it."""
        indices = self._space.indices(plan)
        shared = next(
            (i for i, (a, b) in enumerate(zip(indices, self._path, strict=True)) if a != b), len(indices)
        )
        del self._stack[shared + 1 :]
        for position in range(shared, len(indices)):
            self._stack.append(self._step(self._stack[-1], position, indices[position], self._subnet))
        self._path = indices
        return self.measure(self._stack[-1][:])

    def sensitivities(self, position: int, levels: Sequence[int]) -> list[float]:
        """Estimates the measure of one block at some levels, with all others dense.

        The estimate is of second order; where the block's output changes by much, it is replayed instead.
        """
        return self._estimated(position, self._outputs(position, levels))

    def changed(self, position: int, blocks: Sequence[Weights]) -> list[float]:
        """Estimates the measure of a block with other weights, with all others dense, as `sensitivities`."""
        before = self._dense_states[position]
        return self._estimated(position, [self._run(weights, before, position) for weights in blocks])

    def measure_ends(self, embedding: Embedding, head: LMHead) -> float:
        """Measures the dense model with another embedding and another head, on the windows of replays."""
        hidden = self._store.copy(embedding[self.windows[self._some]])
        return head.kl(self._some_targets, self._through(-1, [hidden])[0][:])

    def _estimated(self, position: int, outputs: list[ArrayLike]) -> list[float]:
        """Estimates the measure of the dense model whose block gives these states instead of its own."""
        estimates = [self._fisher.of(position, hidden) for hidden in outputs]
        far = [at for at, estimate in enumerate(estimates) if estimate.size > _REPLAY_FROM]
        some: list[ArrayLike] = [outputs[at][self._some] for at in far]
        with fast_products(self._store.device):
            last = self._through(position, some)
        found = [self.head.kl(self._some_targets, hidden[:]) for hidden in last]
        replayed = dict(zip(far, found, strict=True))
        return [replayed.get(at, estimate.kl) for at, estimate in enumerate(estimates)]

    def replayed(self, position: int, levels: Sequence[int]) -> list[float]:
        """Measures one block at some levels, with all others dense, through all blocks above it."""
        return [
            self.measure(hidden[:]) for hidden in self._through(position, self._outputs(position, levels))
        ]

    def _through(self, position: int, candidates: list[ArrayLike]) -> list[ArrayLike]:
        """Runs the blocks above a block on states after it, on all together: each is loaded once."""
        for later in range(position + 1, 2 * self._space.layers) if candidates else ():
            weights = self._block(later, 0, self._dense)
            candidates = [self._run(weights, hidden, later) for hidden in candidates]
        return candidates

    @cached_property
    def _some(self) -> torch.Tensor:
        """The windows that are replayed."""
        return torch.arange(0, len(self.windows), _REPLAYED)

    @cached_property
    def _some_targets(self) -> DenseTargets:
        return self._targets.of_windows(self._some, len(self.windows))

    @cached_property
    def _fisher(self) -> FisherSensitivity:
        def dense(position: int) -> Weights:
            return self._block(position, 0, self._dense)

        return FisherSensitivity(self._runner, self.head, self._dense_states, dense, self._store)

    def _outputs(self, position: int, levels: Sequence[int]) -> list[ArrayLike]:
        """Runs a block at some levels on the dense hidden states."""
        before = self._dense_states[position]
        return [self._step(before, position, level, self._subnet) for level in levels]

    def _states(self, hidden: torch.Tensor, blocks: Block, indices: list[int]) -> list[ArrayLike]:
        states = [self._store.copy(hidden)]
        for position, level in enumerate(indices):
            states.append(self._step(states[-1], position, level, blocks))
        return states

    def _step(self, hidden: ArrayLike, position: int, index: int, blocks: Block) -> ArrayLike:
        return self._run(self._block(position, index, blocks), hidden, position)

    def _block(self, position: int, index: int, blocks: Block) -> Weights:
        layer, kind = position // 2, BLOCK_KINDS[position % 2]
        return blocks(layer, kind, self._space.levels(kind)[index])

    @torch.inference_mode()
    def _run(self, weights: Weights, hidden: ArrayLike, position: int) -> ArrayLike:
        run = partial(self._runner.at(position // 2).block, BLOCK_KINDS[position % 2], weights)
        return self._store.mapped(hidden, torch.arange(len(hidden)).split(ROWS), run)
