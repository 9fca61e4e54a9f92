"""Excerpts from all over a large text, so that no more of it is tokenized than a run can use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from lathe.compressor.calibration.documents import ChatText

LEAST = 2**20
"""Characters up to which a text is taken whole."""
_PER_TOKEN = 64
"""Characters for each token that is wanted: several times what a token has in any language."""
_LENGTH = 2**14


def excerpts(documents: Sequence[str], tokens: int) -> list[str]:
    """Returns documents as they are, or about evenly spaced parts that hold several times as many tokens.

    Chats and documents of less than an excerpt's length stay whole. No two excerpts overlap, and every one
    starts where a word does.

    Args:
        documents: The documents of a text.
        tokens: The number of tokens that are wanted.
    """
    most, ends = max(LEAST, _PER_TOKEN * tokens), [*accumulate(map(len, documents))]
    if not documents or ends[-1] <= most:
        return list(documents)
    return list(_parts(documents, ends, most // _LENGTH))


def _parts(documents: Sequence[str], ends: Sequence[int], count: int) -> Iterator[str]:
    last = -1
    for number in range(count):
        start = number * ends[-1] // count
        index = bisect_right(ends, start)
        document = documents[index]
        whole = len(document) <= _LENGTH or isinstance(document, ChatText)
        if not whole:
            yield _excerpt(document, start - (ends[index] - len(document)))
        elif index != last:
            yield document
        last = index


def _excerpt(document: str, start: int) -> str:
    """Returns the text from the first word after `start` on."""
    end = start + _LENGTH
    space = document.find(" ", start, end)
    return document[space + 1 if start and space >= 0 else start : end]
