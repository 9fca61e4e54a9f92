"""Staged selection of subnets by KL to the dense model, on calibration windows drawn anew each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import torch

from benchmarks.quality.setting import Setting
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.lm_head import DenseTargets

_ROWS = 4
Levels = tuple[int, ...]
"""A subnet as what a search calls its blocks' states: attention and FFN of layer 0, of layer 1, ..."""
Block = Callable[[int, int], Weights]
"""(position, state) -> the block's tensors."""


class SubnetEvaluator:
    """Evaluates subnets of one setting; `rng` draws the windows, and dense targets are computed once."""

    def __init__(self, setting: Setting, rng: random.Random) -> None:
        self._setting, self._rng = setting, rng
        self._targets: dict[int, DenseTargets] = {}

    def best(
        self, candidates: Iterable[Levels], block: Block, tokens: int, survivors: int
    ) -> list[tuple[float, Levels]]:
        """The `survivors` candidates with the lowest KL, best first.

        They are compared on about `tokens` tokens, the same for all candidates of a call.
        """
        fit = self._setting.fit
        drawn = self._rng.sample(range(len(fit)), min(len(fit), max(1, tokens // fit.shape[1])))
        ordered = sorted(set(candidates))
        return sorted(zip(self.kl(ordered, block, drawn), ordered, strict=True))[:survivors]

    @torch.inference_mode()
    def kl(self, candidates: Sequence[Levels], block: Block, windows: Sequence[int]) -> list[float]:
        """KL(dense || candidate) in nats per token.

        Neighbours in the list share the hidden states of their common leading blocks.
        """
        sums = [0.0] * len(candidates)
        for start in range(0, len(windows), _ROWS):
            part = list(windows[start : start + _ROWS])
            targets, states = self._dense(part), [self._setting.embed(self._setting.fit[part])]
            path: tuple[int, ...] = ()
            for number, levels in enumerate(candidates):
                same = takewhile(lambda pair: pair[0] == pair[1], zip(levels, path, strict=False))
                shared = len([*same])
                del states[shared + 1 :]
                for position in range(shared, len(levels)):
                    weights = block(position, levels[position])
                    runner = self._setting.runner.at(position // 2)
                    run = (runner.attention, runner.ffn)[position % 2]
                    states.append(run(weights, states[-1]))
                path = levels
                sums[number] += self._setting.head.kl(targets, states[-1]) * len(part)
        return [total / len(windows) for total in sums]

    def _dense(self, windows: list[int]) -> DenseTargets:
        for window in windows:
            if window not in self._targets:
                hidden = self._setting.hidden(self._setting.layers, self._setting.fit[window : window + 1])
                self._targets[window] = self._setting.head.targets(hidden)
        parts = [self._targets[window] for window in windows]
        return DenseTargets(
            torch.cat([p.indices for p in parts]),
            torch.cat([p.logprobs for p in parts]),
            torch.cat([p.rest for p in parts]),
        )
