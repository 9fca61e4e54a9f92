"""Final norm and LM head, and KL divergence from the dense model's distribution, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lathe.compressor.compute.precision import as_factor
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.checkpoint import Table

TOP = 1024
"""Tokens whose dense probabilities are kept one by one."""
Shares = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class DenseTargets:
    """The dense model's most likely tokens: indices and log-probabilities [rows, k].

    The log of the probability of all other tokens is [rows, 1].
    """

    indices: torch.Tensor
    logprobs: torch.Tensor
    rest: torch.Tensor

    def of_windows(self, chosen: torch.Tensor, count: int) -> DenseTargets:
        """Returns those of some windows, by their indices; all together are of `count`."""
        parts = (self.indices, self.logprobs, self.rest)
        return DenseTargets(*(part.unflatten(0, (count, -1))[chosen].flatten(0, 1) for part in parts))


class LMHead:
    """Final norm and LM head, applied window by window so that logits are never all in memory.

    A weight that stays in the checkpoint is read for every batch. `cap` bounds logits softly, if given.
    """

    def __init__(
        self, runner: BlockRunner, norm: Weights, weight_VD: torch.Tensor | Table, cap: float | None = None
    ) -> None:
        self._runner, self._norm, self._stored, self._cap = runner, norm, weight_VD, cap

    @property
    def _weight(self) -> torch.Tensor:
        return self._stored.whole() if isinstance(self._stored, Table) else self._stored

    def with_weight(self, weight_VD: torch.Tensor) -> LMHead:
        """Returns this head with another weight."""
        return LMHead(self._runner, self._norm, weight_VD, self._cap)

    def normed(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Returns the LM head's input."""
        return self._runner.final_norm(self._norm, hidden_BTD)

    def logits(self, hidden_BTD: torch.Tensor, weight_VD: torch.Tensor | None = None) -> torch.Tensor:
        weight = self._weight if weight_VD is None else weight_VD
        logits = self.normed(hidden_BTD) @ weight.T
        if self._cap is None:
            return logits
        bounded = logits.div_(self._cap).tanh_()
        return bounded * self._cap if bounded.requires_grad else bounded.mul_(self._cap)

    def logprobs(self, hidden_BTD: torch.Tensor, weight_VD: torch.Tensor | None = None) -> torch.Tensor:
        return torch.log_softmax(self.logits(hidden_BTD, weight_VD), -1)

    def difference(self, dense_BTD: torch.Tensor, normed_BTD: torch.Tensor) -> torch.Tensor:
        """Returns minus the gradient of KL(dense || subnet) by the subnet head's input, [B, T, D]."""
        parts, weight = [], as_factor(self._weight)
        for dense, normed in zip(dense_BTD.split(1), normed_BTD.split(1), strict=True):
            (p, _), (q, slope) = self._shares(dense, weight), self._shares(normed, weight)
            parts.append(p.sub_(q).mul_(slope) @ weight)
        return torch.cat(parts)

    def curvature(self, normed_BTD: torch.Tensor, change_BTD: torch.Tensor) -> torch.Tensor:
        """Returns the KL's Gauss-Newton curvature by the head's input times a change of it, [B, T, D]."""
        parts, weight = [], self._weight
        for normed, change in zip(normed_BTD.split(1), change_BTD.split(1), strict=True):
            q, slope = self._shares(normed, weight)
            moved = (change @ weight.T).float().mul_(slope)
            mean = (q[..., None, :] @ moved[..., None]).squeeze(-1)
            parts.append(moved.sub_(mean).mul_(q).mul_(slope) @ weight)
        return torch.cat(parts)

    def sampled_gradient(self, normed_BTD: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Returns the gradient of the loss on tokens drawn from the subnet's distribution, [B, T, D].

        The generator is the processor's, so that tokens are the same on every device.
        """
        parts, weight = [], as_factor(self._weight)
        for normed in normed_BTD.split(1):
            q, slope = self._shares(normed, weight)
            parts.append(_but(q, _drawn(q, generator)).mul_(slope) @ weight)
        return torch.cat(parts)

    def loss_gradient(self, windows_BT: torch.Tensor, hidden_BTD: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Returns the mean loss in nats per predicted token, and its gradient by the hidden states."""
        total, parts, weight = 0.0, [], self._weight
        for tokens, part in zip(windows_BT.split(1), hidden_BTD.split(1), strict=True):
            below = part[:, :-1].detach().requires_grad_()
            with torch.enable_grad():
                normed = self.normed(below)
            logits, slope = self._capped(normed.detach(), weight)
            logprobs, following = torch.log_softmax(logits, -1), tokens[:, 1:, None].to(part.device)
            total -= float(logprobs.gather(-1, following).sum())
            at_normed = (_but(logprobs.exp(), following) * slope) @ weight
            (gradient,) = torch.autograd.grad(normed, [below], at_normed)
            parts.append(nn.functional.pad(gradient, (0, 0, 0, 1)))
        predicted = windows_BT[:, 1:].numel()
        return total / predicted, torch.cat(parts) / predicted

    def _shares(
        self, normed_BTD: torch.Tensor, weight_VD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Probabilities [B, T, V], and the slope of the logits as `_capped`."""
        logits, slope = self._capped(normed_BTD, weight_VD)
        return torch.softmax(logits, -1), slope

    def _capped(
        self, normed_BTD: torch.Tensor, weight_VD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Returns logits [B, T, V], and their derivative by the logits before the cap."""
        logits = (normed_BTD @ weight_VD.T).float()
        if self._cap is None:
            return logits, 1.0
        bounded = torch.tanh(logits / self._cap)
        return bounded * self._cap, 1 - bounded.square()

    def loss(self, windows_BT: torch.Tensor, hidden_BTD: torch.Tensor) -> float:
        """Mean negative log-likelihood in nats per predicted token."""
        total, weight = 0.0, self._weight
        for tokens, part in zip(windows_BT.split(1), hidden_BTD.split(1), strict=True):
            following = tokens[:, 1:, None].to(part.device)
            total -= float(self.logprobs(part, weight)[:, :-1].gather(-1, following).sum())
        return total / windows_BT[:, 1:].numel()

    def targets(self, hidden_BTD: torch.Tensor) -> DenseTargets:
        parts, weight = [], self._weight
        for part in hidden_BTD.split(1):
            logprobs = self.logprobs(part, weight).flatten(0, 1)
            top = logprobs.topk(min(TOP, logprobs.shape[-1]), -1)
            parts.append((top.indices, top.values, _rest(top.values)))
        return DenseTargets(*(torch.cat(p) for p in zip(*parts, strict=True)))

    def kl(self, targets: DenseTargets, hidden_BTD: torch.Tensor) -> float:
        """Mean KL over tokens, all outside the dense top-k taken as one (a lower bound of the full KL)."""
        total = 0.0
        for dense, mine in self._beside(targets, hidden_BTD):
            total += float(sum((d.exp() * (d - m)).sum() for d, m in zip(dense, mine, strict=True)))
        return total / len(targets.rest)

    def acceptance(self, targets: DenseTargets, hidden_BTD: torch.Tensor) -> float:
        """Returns the share of the subnet's drafts that the dense model would accept.

        It is the mean over tokens of the sum of min(p, q) (Leviathan et al., arXiv 2211.17192, Corollary
        3.6); all tokens outside the dense top-k count as one, which gives an upper bound.
        """
        total = 0.0
        for dense, mine in self._beside(targets, hidden_BTD):
            total += float(sum(torch.minimum(d, m).exp().sum() for d, m in zip(dense, mine, strict=True)))
        return total / len(targets.rest)

    def _beside(self, targets: DenseTargets, hidden_BTD: torch.Tensor) -> Iterator[tuple[Shares, Shares]]:
        """Dense and subnet in slices: log-probabilities of the dense top-k, and of all others as one."""
        row, weight = 0, self._weight
        for part in hidden_BTD.split(1):
            logprobs = self.logprobs(part, weight).flatten(0, 1)
            at = slice(row, row + len(logprobs))
            mine = logprobs.gather(-1, targets.indices[at])
            yield (targets.logprobs[at], targets.rest[at]), (mine, _rest(mine))
            row = at.stop


def _but(q_BTV: torch.Tensor, tokens_BT1: torch.Tensor) -> torch.Tensor:
    """Returns probabilities less those of a distribution that is certain of these tokens."""
    return q_BTV.scatter_add(-1, tokens_BT1, q_BTV.new_full(tokens_BT1.shape, -1.0))


def _drawn(q_BTV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draws a token from each distribution, [B, T, 1]: ten times as fast as `torch.multinomial`."""
    cumulative = q_BTV.cumsum(-1)
    at = torch.rand(*q_BTV.shape[:2], 1, generator=generator).to(q_BTV) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, at, right=True).clamp_max_(q_BTV.shape[-1] - 1)


def _rest(logprobs: torch.Tensor) -> torch.Tensor:
    return (1 - logprobs.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
