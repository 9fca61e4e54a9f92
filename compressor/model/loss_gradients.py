"""Gradients of the loss in predicting text, by whatever the layers of a model are made of.

Between the passes only the input of each layer is kept, and a layer is run again where its gradients are
taken: what that needs in memory is one layer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from lathe.compressor.model.lm_head import LMHead

Run = Callable[[int, torch.Tensor], torch.Tensor]
"""(number of a layer, the stream before it) -> the stream after it, [B, T, D]."""


def loss_gradients(
    head: LMHead, run: Run, layers: int, hidden_BTD: torch.Tensor, tokens_BT: torch.Tensor
) -> tuple[float, Iterator[int]]:
    """Returns the mean loss in nats per predicted token, and the numbers of layers, the last one first.

    When a number comes out, the leaves that this layer was last run with have their gradients.

    Args:
        head: The model's.
        run: Runs a layer; whatever gets gradients is a leaf that it reads.
        layers: How many there are.
        hidden_BTD: The first layer's input.
        tokens_BT: The text.
    """
    inputs = []
    with torch.no_grad():
        for index in range(layers):
            inputs.append(hidden_BTD)
            hidden_BTD = run(index, hidden_BTD)
    loss, gradient = head.loss_gradient(tokens_BT, hidden_BTD)
    return loss, _pulled_back(run, inputs, gradient)


def _pulled_back(run: Run, inputs: list[torch.Tensor], gradient_BTD: torch.Tensor) -> Iterator[int]:
    while inputs:
        below = inputs.pop().detach().requires_grad_()
        with torch.enable_grad():
            after = run(len(inputs), below)
        after.backward(gradient_BTD)
        assert below.grad is not None
        gradient_BTD = below.grad
        yield len(inputs)
