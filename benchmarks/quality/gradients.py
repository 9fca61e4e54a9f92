"""Gradients of the loss in predicting text, with the head a few tokens at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.quality.setting import Setting
from lathe.compressor.model.block_runner import Weights

_SLICE_BYTES = 2**27
"""Of logits that have gradients at a time."""


def gradients(
    setting: Setting, layers: Sequence[Weights], tokens_BT: torch.Tensor
) -> list[dict[str, torch.Tensor]]:
    """Of the mean loss in nats per predicted token, by layer and name; one window at a time."""
    leaves = [{n: w.detach().clone().requires_grad_() for n, w in layer.items()} for layer in layers]
    for tokens in tokens_BT.split(1):
        hidden = setting.embed(tokens)
        for index, weights in enumerate(leaves):
            hidden = setting.layer(index, weights, hidden)
        backward(setting, tokens, hidden, tokens_BT[:, 1:].numel())
    return [{n: w.grad for n, w in layer.items() if w.grad is not None} for layer in leaves]


def backward(setting: Setting, tokens_BT: torch.Tensor, hidden_BTD: torch.Tensor, predicted: int) -> float:
    """Adds gradients of the summed loss in nats, over `predicted`, to what made the head's input.

    Args:
        setting: Whose head it is.
        tokens_BT: The text.
        hidden_BTD: What the head reads, with its graph.
        predicted: What sums are divided by, so that batches add up to a mean.

    Returns:
        That share of the mean loss.
    """
    states, following = hidden_BTD[:, :-1].flatten(0, 1), tokens_BT[:, 1:].reshape(-1)
    count = max(1, _SLICE_BYTES // (4 * setting.shape.vocab_size))
    gradients, total = [], 0.0
    for part, at in zip(states.detach().split(count), following.split(count), strict=True):
        leaf = part.clone().requires_grad_()
        loss = -setting.head.logprobs(leaf[None])[0].gather(-1, at[:, None]).sum() / predicted
        (gradient,) = torch.autograd.grad(loss, leaf)
        gradients.append(gradient)
        total += float(loss.detach())
    states.backward(torch.cat(gradients))
    return total
