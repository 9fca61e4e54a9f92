"""What the router sees of excerpts: the sums of their token embeddings, over their lengths and a prior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lathe.compressor.calibration.tokens import evenly_spaced
from lathe.compressor.model.embedding import Embedding

TOKENS = 256
"""The most tokens of a prompt that are read."""
PRIOR = 8.0
"""Tokens without meaning that every prompt is taken to have besides."""
LENGTHS = (16, 32, 64, 128, TOKENS)
_WINDOWS, _EXCERPTS = 64, 128
"""Of a domain, the most windows, and the most excerpts of a length."""


@dataclass(frozen=True)
class Vocabulary:
    """The embeddings of tokens; special ones, which a chat template writes around any text, count nothing.

    Attributes:
        embedding: Of the model.
        size: The number of tokens.
        special: [S] the ids of special tokens.
    """

    embedding: Embedding
    size: int
    special: torch.Tensor

    def __getitem__(self, tokens_N: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings [N, D] of tokens, float32, those of special ones zero."""
        found = self.embedding[tokens_N[:, None]][:, 0].float()
        return found.masked_fill(torch.isin(tokens_N, self.special)[:, None], 0.0)


@dataclass(frozen=True)
class Excerpts:
    """Excerpts of the texts of domains.

    Attributes:
        features: [n, D] float32.
        labels: [n] the numbers of the domains.
        lengths: [n] tokens.
        sources: [n] the windows that they are from, numbered within their domains.
    """

    features: torch.Tensor
    labels: torch.Tensor
    lengths: torch.Tensor
    sources: torch.Tensor

    @property
    def weights(self) -> torch.Tensor:
        """[n] float32: each length of each domain weighs the same; their sum is 1."""
        groups = self.labels * (int(self.lengths.max()) + 1) + self.lengths
        _, at, counts = groups.unique(return_inverse=True, return_counts=True)
        return 1 / (counts[at] * len(counts))

    def __getitem__(self, kept: torch.Tensor) -> Excerpts:
        """Returns some of them. kept: [n] bool."""
        return Excerpts(self.features[kept], self.labels[kept], self.lengths[kept], self.sources[kept])


def excerpts(vocabulary: Vocabulary, domains: Sequence[torch.Tensor]) -> Excerpts:
    """Returns excerpts of several lengths.

    Args:
        vocabulary: Has the embeddings.
        domains: The windows [B, T] of every domain.
    """
    parts = [part for label, windows in enumerate(domains) for part in _parts(vocabulary, windows, label)]
    return Excerpts(
        torch.cat([part.features for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.lengths for part in parts]),
        torch.cat([part.sources for part in parts]),
    )


def _parts(vocabulary: Vocabulary, windows_BT: torch.Tensor, label: int) -> Iterator[Excerpts]:
    """Yields the excerpts of a domain, length by length."""
    numbers = evenly_spaced(torch.arange(len(windows_BT)), _WINDOWS)
    width = windows_BT.shape[1]
    found: dict[int, list[torch.Tensor]] = {length: [] for length in lengths_in(width)}
    for number in numbers.tolist():
        embedded_TD = vocabulary[windows_BT[number]]
        for length, sums in found.items():
            count = width // length
            sums.append(embedded_TD[: count * length].view(count, length, -1).sum(1) / (length + PRIOR))
    for length, sums in found.items():
        kept = evenly_spaced(torch.arange(sum(map(len, sums))), _EXCERPTS)
        sources = torch.arange(len(numbers)).repeat_interleave(width // length)[kept]
        ones = torch.ones_like(kept)
        yield Excerpts(torch.cat(sums)[kept], label * ones, length * ones, sources)


def lengths_in(window: int) -> tuple[int, ...]:
    """Returns the lengths of excerpts of a window of so many tokens."""
    return tuple(length for length in LENGTHS if length <= window) or (window,)
