"""Softmax regression with a ridge, on standardised features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

_STEPS = 50


@dataclass(frozen=True)
class LinearClassifier:
    """Logits are features [n, D] @ weights [D, C] + bias [C]."""

    weights: torch.Tensor
    bias: torch.Tensor

    def probabilities(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Returns the probability of every class, [n, C]."""
        return torch.softmax(features_ND @ self.weights + self.bias, -1)


def fit(
    features_ND: torch.Tensor, labels_N: torch.Tensor, weights_N: torch.Tensor, classes: int, ridge: float
) -> LinearClassifier:
    """Returns the classifier of least weighted cross-entropy + ridge / 2 * |W|^2, by L-BFGS.

    W are the weights of features that are shifted and scaled to mean 0 and variance 1; the classifier that is
    returned takes them as they are.

    Args:
        features_ND: Float32.
        labels_N: The class of every row.
        weights_N: Of the rows; their sum is 1.
        classes: Their number C.
        ridge: Above zero.
    """
    mean = weights_N @ features_ND
    spread = (weights_N @ (features_ND - mean).square()).sqrt().clamp_min(1e-12)
    X = (features_ND - mean) / spread
    W = torch.zeros(X.shape[1], classes, requires_grad=True)
    b = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([W, b], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        found = weights_N @ cross_entropy(X @ W + b, labels_N, reduction="none")
        found = found + ridge / 2 * W.square().sum()
        found.backward()
        return found

    with torch.enable_grad():
        solver.step(loss)
    W, b = W.detach() / spread[:, None], b.detach()
    return LinearClassifier(W, b - mean @ W)
