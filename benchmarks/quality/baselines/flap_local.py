"""FLAP's mask, then local reconstruction (Wagner et al., arXiv 2510.14444): blocks trained one at a time.

After FLAP has pruned and set its biases, all tensors of one block, attention or FFN, are trained to give what
the dense block gives on the same inputs, those of the dense model: mean squared error, no gradient goes
through another block. No label is used, but it trains weights: the training-free methods do not.

Settings are those of the authors' code (ZIB-IOL/Free-Lunch-in-LLM-Compression): attention and FFN apart, one
epoch over the calibration text in batches of two windows, AdamW without weight decay, a learning rate that
rises over a tenth of the steps and falls to zero. They tune that rate per model: here the rate of three that
mends the middle layer most on held-out text serves all. Held-out text also says when to stop: it is scored
four times in the epoch, and the best weights stay, FLAP's own if none are better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.quality.baselines.flap import mask
from benchmarks.quality.setting import Setting, Subnet, baselines
from lathe.artefact.plan import BLOCK_KINDS, BlockKind
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.names import (
    DOWN_PROJ,
    FFN_NORM,
    FFN_OUTPUT_NORM,
    GATE_PROJ,
    UP_PROJ,
)

_RATES = (1e-5, 1e-4, 1e-3)
_BATCH = 2
_WARM_UP = 0.1
_CHECKS = 4
_FFN = (FFN_NORM, FFN_OUTPUT_NORM, GATE_PROJ, UP_PROJ, DOWN_PROJ)


@baselines.register("flap-local")
def flap_local(setting: Setting, keep: float) -> Subnet:
    found = mask(setting, keep)
    rate = best_rate(setting, found.layers)
    layers: list[Weights] = []
    trained = 0
    for job in jobs(setting, found.layers):
        mended, error = job.train(rate)
        trained += error < job.error(job.start)
        if job.kind == "attention":
            layers.append(mended)
        else:
            layers[-1] = {**layers[-1], **mended}
    return setting.subnet(
        layers,
        candidates=found.tried,
        plan=found.plan,
        facts=found.facts
        | {"trained": "weights, block by block", "learning_rate": rate, "blocks_trained": trained},
    )


@dataclass(frozen=True)
class Job:
    """One block. start: its tensors now. fit, heldout: states before the block, and after the dense one."""

    setting: Setting
    index: int
    kind: BlockKind
    start: Weights
    fit: tuple[torch.Tensor, torch.Tensor]
    heldout: tuple[torch.Tensor, torch.Tensor]

    def train(self, rate: float) -> tuple[Weights, float]:
        """The best tensors on held-out text, and their error there."""
        best, least = self.start, self.error(self.start)
        leaves = {name: value.detach().clone().requires_grad_() for name, value in self.start.items()}
        if not least or not leaves:
            return best, least
        order = torch.randperm(len(self.fit[0]), generator=torch.Generator().manual_seed(self.setting.seed))
        batches = order.split(_BATCH)
        optimizer = torch.optim.AdamW(list(leaves.values()), rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, len(batches)))
        for step, at in enumerate(batches, start=1):
            optimizer.zero_grad()
            self._error(leaves, self.fit[0][at], self.fit[1][at]).backward()
            optimizer.step()
            schedule.step()
            if step * _CHECKS // len(batches) > (step - 1) * _CHECKS // len(batches):
                error = self.error(leaves)
                if error < least:
                    best, least = {n: leaf.detach().clone() for n, leaf in leaves.items()}, error
        return best, least

    @torch.no_grad()
    def error(self, weights: Weights) -> float:
        """Mean squared error on held-out text."""
        parts = zip(*(states.split(_BATCH) for states in self.heldout), strict=True)
        total = sum(float(self._error(weights, x, y)) * len(x) for x, y in parts)
        return total / len(self.heldout[0])

    def _error(self, weights: Weights, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        given = self.setting.runner.at(self.index).block(self.kind, weights, before)
        return torch.nn.functional.mse_loss(given, after)


def best_rate(setting: Setting, layers: list[Weights]) -> float:
    """The learning rate that leaves least of the middle layer's held-out errors, both blocks multiplied."""
    middle = [job for job in jobs(setting, layers) if job.index == len(layers) // 2]

    def left(rate: float) -> float:
        result = 1.0
        for job in middle:
            before = job.error(job.start)
            result *= job.train(rate)[1] / before if before else 1.0
        return result

    return min(_RATES, key=left)


def jobs(setting: Setting, layers: list[Weights]) -> Iterator[Job]:
    """Every block with the dense model's states around it."""
    states = [setting.embed(windows) for windows in (setting.fit, setting.heldout)]
    for index, (dense, pruned) in enumerate(zip(setting.layers, layers, strict=True)):
        for kind in BLOCK_KINDS:
            after = [_through(setting, index, kind, dense, state) for state in states]
            own = {n: w for n, w in pruned.items() if (n.rsplit(".", 1)[0] in _FFN) == (kind == "ffn")}
            yield Job(setting, index, kind, own, (states[0], after[0]), (states[1], after[1]))
            states = after


@torch.no_grad()
def _through(
    setting: Setting, index: int, kind: BlockKind, weights: Weights, state: torch.Tensor
) -> torch.Tensor:
    run = setting.runner.at(index)
    return torch.cat([run.block(kind, weights, part) for part in state.split(_BATCH)])


def _share(step: int, steps: int) -> float:
    """Of the learning rate: up over the first steps, then down to zero."""
    warm = int(_WARM_UP * steps)
    return (step + 1) / (warm + 1) if step < warm else (steps - step) / max(1, steps - warm)
