"""Samples tokens from logits: greedy or random, reproducible by seed, independent of the batch.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

LOW_BITS = 48
HIGH_BITS_OF_ONE = int(np.float64(1).view(np.int64)) >> LOW_BITS
LAST_BIN = 1023


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch those filters off.
    `repetition_penalty` 1 switches that penalty off, which applies to the tokens of prompt and answer.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (None: the first token of a prompt) and the likeliest tokens."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Samples the tokens of one sequence and remembers them for the penalties."""

    def __init__(
        self, sampling: SamplingParams, choice: int = 0, prompt: Collection[int] | np.ndarray = ()
    ) -> None:
        """Creates a sampler.

        Args:
            sampling: how tokens are chosen.
            choice: separates the random streams of the `n` answers to one prompt that share a seed.
            prompt: tokens that the repetition penalty applies to.
        """
        self._sampling = sampling
        seed = None if sampling.seed is None else (sampling.seed % 2**64, choice)
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        self._counts: dict[int, int] = {}
        repeated = prompt if sampling.repetition_penalty != 1 else ()
        self._prompt = np.unique(np.asarray(repeated, dtype=np.int64))

    def sample(
        self, logits_V: np.ndarray, banned: Collection[int] = (), allowed_V: np.ndarray | None = None
    ) -> int:
        """Samples the next token.

        Args:
            logits_V: the model's logits.
            banned: tokens that must not be chosen.
            allowed_V: bool; None: all tokens are allowed.

        Raises:
            FloatingPointError: the logits are not numbers.
        """
        if np.isnan(logits_V).any():
            raise FloatingPointError("the model returned logits that are not numbers")
        scores_V = self._adjusted(logits_V, banned, allowed_V)
        token = int(scores_V.argmax()) if self._sampling.temperature == 0 else self._draw(scores_V)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _adjusted(
        self, logits_V: np.ndarray, banned: Collection[int], allowed_V: np.ndarray | None
    ) -> np.ndarray:
        s = self._sampling
        penalised = self._counts if s.presence_penalty or s.frequency_penalty else {}
        repeated = s.repetition_penalty != 1
        if not (repeated or penalised or s.logit_bias or banned or allowed_V is not None):
            return logits_V
        scores_V = logits_V.astype(np.float64)
        if repeated:
            seen = np.union1d(self._prompt, np.fromiter(self._counts, np.int64))
            penalty = s.repetition_penalty
            scores_V[seen] = np.where(scores_V[seen] < 0, scores_V[seen] * penalty, scores_V[seen] / penalty)
        for token, count in penalised.items():
            scores_V[token] -= s.presence_penalty + s.frequency_penalty * count
        for token, bias in s.logit_bias.items():
            scores_V[token] += bias
        scores_V[list(banned)] = -np.inf
        if allowed_V is not None:
            scores_V[~allowed_V] = -np.inf
        return scores_V

    def _draw(self, scores_V: np.ndarray) -> int:
        weights_V = _weights(scores_V, self._sampling.temperature)
        tokens, weights = _truncate(weights_V, self._sampling)
        cumulative = np.cumsum(weights)
        point = min(self._random.random() * cumulative[-1], np.nextafter(cumulative[-1], 0))
        chosen = int(np.searchsorted(cumulative, point, side="right"))
        return chosen if tokens is None else int(tokens[chosen])


def _weights(scores_V: np.ndarray, temperature: float) -> np.ndarray:
    """Returns the probabilities up to a common factor, in float64; the likeliest token has 1."""
    scores_V = scores_V.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        return np.exp((scores_V - scores_V.max()) / temperature)


def _truncate(weights_V: np.ndarray, sampling: SamplingParams) -> tuple[np.ndarray | None, np.ndarray]:
    """Applies top-k, top-p and min-p; returns (tokens, weights) that are left, tokens None for all."""
    tokens, weights = None, weights_V
    if sampling.top_k:
        tokens = _likeliest(weights, sampling.top_k)
        weights = weights[tokens]
    if sampling.top_p < 1:
        tokens, weights = _kept(_nucleus(weights, sampling.top_p), tokens, weights)
    if sampling.min_p:
        tokens, weights = _kept(np.flatnonzero(weights >= sampling.min_p), tokens, weights)
    return tokens, weights


def _kept(kept: np.ndarray, tokens: np.ndarray | None, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return kept if tokens is None else tokens[kept], weights[kept]


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Returns the fewest weights (each at most 1, one of them 1) that make up `top_p` of their sum, by index.

    Only the weights near the boundary are sorted: the others are compared by the high bits of their floats.
    """
    bins = np.minimum(HIGH_BITS_OF_ONE - (weights.view(np.int64) >> LOW_BITS), LAST_BIN)
    cumulative = np.cumsum(np.bincount(bins, weights=weights))
    target = top_p * cumulative[-1]
    edge = int(np.searchsorted(cumulative, target))
    near = np.flatnonzero(bins == edge)
    near = near[np.argsort(-weights[near], kind="stable")]
    missing = target - (cumulative[edge - 1] if edge else 0)
    count = int(np.searchsorted(np.cumsum(weights[near]), missing)) + 1
    return np.concatenate([np.flatnonzero(bins < edge), near[:count]])


def _likeliest(values_V: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the `count` largest values, largest first, ties by index."""
    if count < len(values_V):
        kept = np.sort(np.argpartition(values_V, -count)[-count:])
    else:
        kept = np.arange(len(values_V))
    return kept[np.argsort(-values_V[kept], kind="stable")]


def token_logprob(logits_V: np.ndarray, token: int, top: int) -> TokenLogprob:
    """Returns the natural log-probability of `token` and of the `top` likeliest, from unmodified logits."""
    highest = float(logits_V.max())
    normaliser = highest + float(np.log(np.exp(logits_V.astype(np.float64) - highest).sum()))
    likeliest = _likeliest(logits_V, top) if top else ()
    ranked = tuple((int(t), float(logits_V[t]) - normaliser) for t in likeliest)
    return TokenLogprob(token, float(logits_V[token]) - normaliser, ranked)
