"""Fitness: KL(dense || subnet) in nats per token, over stages of growing token counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from compressor.forward import BlockRunner, Embedding, Weights
from compressor.plan import Plan
from compressor.search.space import Level, Space

_TOP = 1024
_ROWS = 4
Block = Callable[[int, str, Level], Weights]
Shares = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class DenseTargets:
    """The dense model's most likely tokens: indices and log-probabilities [rows, k], and the log of
    what is left for all others [rows, 1]."""

    indices: torch.Tensor
    logprobs: torch.Tensor
    rest: torch.Tensor


class Head:
    """Final norm and LM head, applied in slices so that logits are never all in memory. cap: what logits
    are bounded by, softly, if by anything."""

    def __init__(
        self, runner: BlockRunner, norm: Weights, weight_VD: torch.Tensor, cap: float | None = None
    ) -> None:
        self._runner, self._norm, self._weight, self._cap = runner, norm, weight_VD, cap

    def normed(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """What the LM head reads."""
        return self._runner.final_norm(self._norm, hidden_BTD)

    def logits(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return self._capped(self.normed(hidden_BTD))[0]

    def logprobs(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.logits(hidden_BTD), -1)

    def difference(self, dense_BTD: torch.Tensor, normed_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D]: minus the gradient of KL(dense || subnet) by what the subnet's head reads."""
        parts = []
        for dense, normed in zip(dense_BTD.split(1), normed_BTD.split(1), strict=True):
            (p, _), (q, slope) = self._shares(dense), self._shares(normed)
            parts.append(((p - q) * slope) @ self._weight)
        return torch.cat(parts)

    def curvature(self, normed_BTD: torch.Tensor, change_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D]: the KL's curvature (Gauss-Newton) by what the head reads, times a change of that."""
        parts = []
        for normed, change in zip(normed_BTD.split(1), change_BTD.split(1), strict=True):
            q, slope = self._shares(normed)
            moved = slope * (change @ self._weight.T)
            parts.append((slope * q * (moved - (q * moved).sum(-1, keepdim=True))) @ self._weight)
        return torch.cat(parts)

    def sampled_gradient(self, normed_BTD: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """[B, T, D]: the gradient of the loss on tokens drawn from the subnet's own distribution."""
        parts = []
        for normed in normed_BTD.split(1):
            q, slope = self._shares(normed)
            drawn = torch.multinomial(q.flatten(0, 1), 1, generator=generator).view(*q.shape[:2], 1)
            gradient = q.scatter_add(-1, drawn, q.new_full(drawn.shape, -1.0))
            parts.append((gradient * slope) @ self._weight)
        return torch.cat(parts)

    def _shares(self, normed_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Probabilities [B, T, V], and the slope of the logits as `_capped`."""
        logits, slope = self._capped(normed_BTD)
        return torch.softmax(logits, -1), slope

    def _capped(self, normed_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """[B, T, V], and their derivative by what they are before the cap."""
        logits = normed_BTD @ self._weight.T
        if self._cap is None:
            return logits, 1.0
        bounded = torch.tanh(logits / self._cap)
        return bounded * self._cap, 1 - bounded.square()

    def loss(self, windows_BT: torch.Tensor, hidden_BTD: torch.Tensor) -> float:
        """Mean negative log-likelihood in nats per predicted token."""
        total = 0.0
        for tokens, part in zip(windows_BT.split(_ROWS), hidden_BTD.split(_ROWS), strict=True):
            total -= float(self.logprobs(part)[:, :-1].gather(-1, tokens[:, 1:, None]).sum())
        return total / windows_BT[:, 1:].numel()

    def targets(self, hidden_BTD: torch.Tensor) -> DenseTargets:
        parts = []
        for part in hidden_BTD.split(_ROWS):
            logprobs = self.logprobs(part).flatten(0, 1)
            top = logprobs.topk(min(_TOP, logprobs.shape[-1]), -1)
            parts.append((top.indices, top.values, _rest(top.values)))
        return DenseTargets(*(torch.cat(p) for p in zip(*parts, strict=True)))

    def kl(self, targets: DenseTargets, hidden_BTD: torch.Tensor) -> float:
        """Mean KL over tokens, all outside the dense top-k taken as one (a lower bound of the full KL)."""
        total = 0.0
        for dense, mine in self._beside(targets, hidden_BTD):
            total += float(sum((d.exp() * (d - m)).sum() for d, m in zip(dense, mine, strict=True)))
        return total / len(targets.rest)

    def acceptance(self, targets: DenseTargets, hidden_BTD: torch.Tensor) -> float:
        """Share of the subnet's drafts that the dense model would accept: the mean over tokens of the sum of
        min(p, q) (Leviathan et al., arXiv 2211.17192, Corollary 3.6), all outside the dense top-k taken as
        one (an upper bound)."""
        total = 0.0
        for dense, mine in self._beside(targets, hidden_BTD):
            total += float(sum(torch.minimum(d, m).exp().sum() for d, m in zip(dense, mine, strict=True)))
        return total / len(targets.rest)

    def _beside(self, targets: DenseTargets, hidden_BTD: torch.Tensor) -> Iterator[tuple[Shares, Shares]]:
        """Dense and subnet in slices: log-probabilities of the dense top-k, and of all others as one."""
        row = 0
        for part in hidden_BTD.split(_ROWS):
            logprobs = self.logprobs(part).flatten(0, 1)
            at = slice(row, row + len(logprobs))
            mine = logprobs.gather(-1, targets.indices[at])
            yield (targets.logprobs[at], targets.rest[at]), (mine, _rest(mine))
            row = at.stop


def _rest(logprobs: torch.Tensor) -> torch.Tensor:
    return (1 - logprobs.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()


class Fitness:
    """Judges plans on a few windows. Consecutive plans share the hidden states of common leading blocks.

    Args:
        windows: [B, T] tokens.
        dense: the dense blocks. subnet: the blocks of candidates.
    """

    def __init__(
        self,
        runner: BlockRunner,
        head: Head,
        space: Space,
        windows: torch.Tensor,
        embedding: Embedding,
        dense: Block,
        subnet: Block,
    ) -> None:
        self._runner, self._space, self._subnet = runner, space, subnet
        widest = [0] * (2 * space.layers)
        self.head, self.windows = head, windows
        self._dense_states = self._states(embedding[windows], dense, widest)
        self._targets = head.targets(self._dense_states[-1])
        self._path: list[int] = widest
        self._stack = list(self._dense_states)

    def measure(self, hidden_BTD: torch.Tensor) -> float:
        """KL(dense || subnet) in nats per token from the subnet's last hidden states."""
        return self.head.kl(self._targets, hidden_BTD)

    def judge(self, plan: Plan) -> float:
        """The measure of a plan."""
        indices = self._space.indices(plan)
        shared = next(
            (i for i, (a, b) in enumerate(zip(indices, self._path, strict=True)) if a != b), len(indices)
        )
        del self._stack[shared + 1 :]
        for position in range(shared, len(indices)):
            self._stack.append(self._step(self._stack[-1], position, indices[position], self._subnet))
        self._path = indices
        return self.measure(self._stack[-1])

    def damage(self, position: int, level: int) -> float:
        """The measure of one block at a level and all others dense, replayed from the dense hidden states."""
        hidden = self._step(self._dense_states[position], position, level, self._subnet)
        for later in range(position + 1, 2 * self._space.layers):
            hidden = self._step(hidden, later, 0, self._subnet)
        return self.measure(hidden)

    def _states(self, hidden: torch.Tensor, blocks: Block, indices: list[int]) -> list[torch.Tensor]:
        states = [hidden]
        for position, level in enumerate(indices):
            states.append(self._step(states[-1], position, level, blocks))
        return states

    @torch.inference_mode()
    def _step(self, hidden_BTD: torch.Tensor, position: int, index: int, blocks: Block) -> torch.Tensor:
        layer, kind = position // 2, ("attention", "ffn")[position % 2]
        weights = blocks(layer, kind, self._space.levels(kind)[index])
        runner = self._runner.at(layer)
        run = runner.attention if kind == "attention" else runner.ffn
        return torch.cat([run(weights, part) for part in hidden_BTD.split(_ROWS)])
