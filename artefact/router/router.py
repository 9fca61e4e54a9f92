"""A linear classifier on the mean token embedding of a prompt.

The weights of the classifier times the embeddings are one row of scores for each token of the vocabulary, so
that routing reads as many short rows as a prompt has tokens, and no embeddings:

    logits = sum of scores[token] over the first tokens / (their number + prior) + bias.

The prior draws the mean of a short prompt to zero, so that a few tokens do not make the router sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Route:
    """Where a prompt goes.

    Attributes:
        plan: the name of the subnet.
        likeliest: the name of the likeliest subnet, which is another one where the router falls back.
        probability: that of the likeliest.
        threshold: the one that it needs.
    """

    plan: str
    likeliest: str
    probability: float
    threshold: float


@dataclass(frozen=True)
class Router:
    """Routes prompts to the subnets of domains, or to the general one where it is not sure.

    Attributes:
        scores: [V, C] float32, of each token for each domain.
        bias: [C] float32.
        plans: the names of the domains' subnets, C of them.
        fallback: the name of the general subnet.
        thresholds: for each domain, the probability from which a prompt goes to its subnet.
        tokens: the most tokens that are read, from the prompt's beginning.
        prior: added to their number.
    """

    scores: np.ndarray
    bias: np.ndarray
    plans: tuple[str, ...]
    fallback: str
    thresholds: tuple[float, ...]
    tokens: int
    prior: float

    def probabilities(self, prompt: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the probability of each domain [C] for the token ids of a prompt."""
        ids = np.asarray(prompt[: self.tokens], np.int64)
        logits = self.scores[ids].sum(0) / (len(ids) + self.prior) + self.bias
        odds = np.exp(logits - logits.max())
        return np.asarray(odds / odds.sum())

    def __call__(self, prompt: Sequence[int] | np.ndarray) -> Route:
        """Returns where the token ids of a prompt go."""
        probabilities = self.probabilities(prompt)
        best = int(probabilities.argmax())
        likeliest, probability = self.plans[best], float(probabilities[best])
        sure = probability >= self.thresholds[best]
        return Route(likeliest if sure else self.fallback, likeliest, probability, self.thresholds[best])
