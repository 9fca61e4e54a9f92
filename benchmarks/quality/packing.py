"""Texts with a beginning in common in one row: the beginning runs once, and no text sees the others' ends.

A row holds the beginning, then the rest of one text after the other. Positions go on from the beginning in
each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

Text = tuple[int, ...]
_MOST = 512
"""Tokens of a row of several texts."""
_SHARE = 1 / 3
"""Of a text that has to be in the beginning, or it gets a row of its own."""


@dataclass(frozen=True)
class Row:
    """Texts that begin with the same `shared` tokens."""

    texts: tuple[Text, ...]
    shared: int

    def __len__(self) -> int:
        return self.shared + sum(len(text) - self.shared for text in self.texts)

    @property
    def tokens(self) -> list[int]:
        return [*self.texts[0][: self.shared], *(t for text in self.texts for t in text[self.shared :])]

    @property
    def positions(self) -> list[int]:
        rest = (at for text in self.texts for at in range(self.shared, len(text)))
        return [*range(self.shared), *rest]

    @property
    def owners(self) -> list[int]:
        """Per token: 0 for the beginning, else which text has it, from 1."""
        rest = (n for n, text in enumerate(self.texts, start=1) for _ in text[self.shared :])
        return [*[0] * self.shared, *rest]

    def places(self) -> Iterator[torch.Tensor]:
        """Where each text's tokens are in the row."""
        start = self.shared
        for text in self.texts:
            rest = len(text) - self.shared
            yield torch.cat([torch.arange(self.shared), torch.arange(start, start + rest)])
            start += rest


def packed(texts: Iterable[Text]) -> list[Row]:
    """Rows of all texts, those with a long beginning in common together."""
    rows: list[Row] = []
    for text in sorted(texts):
        longer = _with(rows[-1], text) if rows else None
        if longer:
            rows[-1] = longer
        else:
            rows.append(Row((text,), len(text)))
    return rows


def _with(row: Row, text: Text) -> Row | None:
    """The row with one text more, where that saves tokens."""
    first, shared = row.texts[0], 0
    for mine, other in zip(first[: row.shared], text, strict=False):
        if mine != other:
            break
        shared += 1
    longer = Row((*row.texts, text), shared)
    saves = shared >= _SHARE * len(text) and 2 * shared >= row.shared * (len(row.texts) > 1)
    return longer if saves and len(longer) <= _MOST else None


@dataclass(frozen=True)
class Batch:
    """Rows as tensors: tokens and positions [B, T], who sees whom [B, T, T]; padding sees padding."""

    tokens: torch.Tensor
    positions: torch.Tensor
    seen: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Batch:
        length = max(map(len, rows))
        tokens, positions = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(2))
        owners = torch.full((len(rows), length), -1)
        for number, row in enumerate(rows):
            for tensor, values in ((tokens, row.tokens), (positions, row.positions), (owners, row.owners)):
                tensor[number, : len(row)] = torch.tensor(values)
        same = owners[:, :, None] == owners[:, None, :]
        earlier = torch.ones(length, length, dtype=torch.bool).tril()
        return cls(tokens, positions, earlier & (same | ((owners == 0)[:, None] & (owners > 0)[:, :, None])))
