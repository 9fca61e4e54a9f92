"""The same documents, or the same windows of tokens, in two texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

_LEAST = 40
"""Characters below which a document counts for nothing: a greeting may be in any text."""
_SHOWN = 40


@dataclass(frozen=True)
class Shared:
    """What two texts share.

    Attributes:
        names: Of the texts.
        count: How many documents or windows.
        kind: documents or windows.
        places: The first of them in either text, from 1.
        beginning: Its first characters; empty for a window.
    """

    names: tuple[str, str]
    count: int
    kind: str
    places: tuple[int, int]
    beginning: str

    def __str__(self) -> str:
        first, second = self.names
        quoted = f" ({self.beginning!r})" if self.beginning else ""
        what = self.kind if self.count > 1 else self.kind.removesuffix("s")
        return (
            f"{first} and {second} share {self.count} {what}: number {self.places[0]} of {first} is number "
            f"{self.places[1]} of {second}{quoted}"
        )


def shared_documents(texts: Mapping[str, Sequence[str]]) -> Shared | None:
    """Returns what the first two texts that share documents share; white space does not count."""
    marks = {name: [_mark(document) for document in documents] for name, documents in texts.items()}
    found = next(_shared(marks, "documents"), None)
    if found is None:
        return None
    document = " ".join(texts[found.names[0]][found.places[0] - 1].split())
    return Shared(found.names, found.count, found.kind, found.places, document[:_SHOWN])


def shared_windows(texts: Mapping[str, torch.Tensor]) -> Shared | None:
    """Returns what the first two texts that share windows [n, T] share."""
    marks = {
        name: [_digest(window.numpy().tobytes()) for window in windows] for name, windows in texts.items()
    }
    return next(_shared(marks, "windows"), None)


def _shared(texts: Mapping[str, Sequence[bytes | None]], kind: str) -> Iterator[Shared]:
    seen: dict[str, dict[bytes, int]] = {}
    for name, marks in texts.items():
        own = {mark: at for at, mark in reversed([*enumerate(marks, 1)]) if mark is not None}
        for other, theirs in seen.items():
            both = [mark for mark in theirs if mark in own]
            if both:
                yield Shared((other, name), len(both), kind, (theirs[both[0]], own[both[0]]), "")
        seen[name] = dict(sorted(own.items(), key=lambda item: item[1]))


def _mark(document: str) -> bytes | None:
    text = " ".join(document.split())
    return _digest(text.encode()) if len(text) >= _LEAST else None


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
