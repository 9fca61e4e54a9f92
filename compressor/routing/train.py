"""Trains a router on the calibration windows of domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lathe.artefact.router import Router
from lathe.compressor.routing.features import PRIOR, TOKENS, Excerpts, Vocabulary, excerpts
from lathe.compressor.routing.softmax_regression import LinearClassifier, fit
from lathe.compressor.routing.threshold import choose_thresholds

_FOLDS = 4
_RIDGES = (1e-2, 1e-1, 1.0)
_ROWS = 4096
"""Tokens that are embedded at a time."""


@dataclass(frozen=True)
class Trained:
    """A router, with what it was chosen by.

    Attributes:
        router: The router.
        ridge: That of the classifier, by the cross-entropy of windows that were not fitted on.
        cross_entropy: That, in nats.
    """

    router: Router
    ridge: float
    cross_entropy: float


def train_router(
    vocabulary: Vocabulary, fitted: Mapping[str, torch.Tensor], fallback: str, losses_SC: torch.Tensor
) -> Trained:
    """Trains a router; the ridge and the thresholds are chosen by windows left out of the fit in turn.

    Args:
        vocabulary: Has the embeddings.
        fitted: Windows [B, T] of each domain, at least two, by the name of its subnet.
        fallback: The name of the general subnet.
        losses_SC: Loss of the general subnet (row 0) and of each domain's on the text of each domain.
    """
    found = excerpts(vocabulary, [*fitted.values()])
    folds = {ridge: _left_out(found, len(fitted), ridge) for ridge in _RIDGES}
    entropies = {ridge: _cross_entropy(found, left_out) for ridge, left_out in folds.items()}
    ridge = min(entropies, key=entropies.__getitem__)
    thresholds = choose_thresholds(folds[ridge], found.labels, found.weights, losses_SC)
    classifier = fit(found.features, found.labels, found.weights, len(fitted), ridge)
    router = Router(
        _scores(vocabulary, classifier).numpy(),
        classifier.bias.numpy(),
        tuple(fitted),
        fallback,
        thresholds,
        TOKENS,
        PRIOR,
    )
    return Trained(router, ridge, entropies[ridge])


def _left_out(found: Excerpts, classes: int, ridge: float) -> torch.Tensor:
    """Returns the probabilities [n, C] of excerpts by classifiers that were not fitted on their windows."""
    probabilities = torch.empty(len(found.labels), classes)
    fewest = min(int(found.sources[found.labels == label].max()) + 1 for label in range(classes))
    folds = found.sources % min(_FOLDS, fewest)
    for fold in folds.unique().tolist():
        rest = found[folds != fold]
        classifier = fit(rest.features, rest.labels, rest.weights, classes, ridge)
        probabilities[folds == fold] = classifier.probabilities(found.features[folds == fold])
    return probabilities


def _cross_entropy(found: Excerpts, probabilities: torch.Tensor) -> float:
    true = probabilities.gather(1, found.labels[:, None])[:, 0]
    return -float(found.weights @ true.clamp_min(1e-12).log())


def _scores(vocabulary: Vocabulary, classifier: LinearClassifier) -> torch.Tensor:
    """Returns the scores [V, C] of all tokens."""
    parts = (vocabulary[ids] @ classifier.weights for ids in torch.arange(vocabulary.size).split(_ROWS))
    return torch.cat([*parts])
