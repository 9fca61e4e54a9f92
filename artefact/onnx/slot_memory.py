"""The memory of slots over the caches of all layers: whole from the beginning, or in pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lathe.artefact.onnx.kv_cache import Cache, PagedCache
from lathe.artefact.onnx.pages import max_mappings
from lathe.artefact.onnx.prefix_store import Chunk, Line, PrefixStore

KeysValues = tuple[int, int, list[Any]]
"""Start and stop, and what each cache holds between them."""
_SHARE_OF_MAPPINGS = 2
"""One of so many of the process's mappings may be ours."""


class WholeSlots:
    """Slots whose memory is taken at the start; beginnings of prompts are copied out and in.

    Attributes:
        touched: the most tokens that each slot may have had since its memory was given back, [B].
        page_tokens: a slot takes memory for so many tokens at a time.
        stored_bytes: the memory of the beginnings that are kept, as far as it is known.
    """

    page_tokens: int = 1
    stored_bytes: int = 0

    def __init__(self, caches: Sequence[Cache], slots: int, length: int) -> None:
        self._all = caches
        self._length = length
        self.touched = np.zeros(slots, np.int64)

    def shown(self, slot: int) -> int:  # noqa: ARG002
        """Returns how many tokens of a slot lie in what is kept alone."""
        return 0

    def held(self, slot: int) -> int:  # noqa: ARG002
        """Returns for how many tokens a slot holds memory of its own."""
        return self._length

    def move(self, source: int, target: int, length: int) -> None:
        """Puts a slot's first `length` tokens in the place of another's."""
        for cache in self._all:
            cache.copy(source, target, 0, length)

    def keep(self, slot: int, start: int, stop: int) -> Any:
        """Returns the keys and values of some tokens of a slot, for `append`."""
        return start, stop, [cache.read(slot, start, stop) for cache in self._all]

    def append(self, slot: int, kept: Sequence[Any]) -> None:
        """Puts what was kept, from the first token on, into an empty slot."""
        for start, _, parts in kept:
            for cache, part in zip(self._all, parts, strict=True):
                cache.write(slot, start, part)

    def reset(self, slot: int) -> None:
        """Makes a slot ready for other tokens; it may go on holding memory."""

    def release(self, slot: int, keep: int) -> None:
        """Gives back the memory of a slot beyond `keep` tokens, where that can be done."""

    def is_shown(self, kept: Any) -> bool:  # noqa: ARG002
        """Returns whether a slot shares the memory of what was kept."""
        return False


class PagedSlots(WholeSlots):
    """Slots that take memory with their tokens, and share that of equal beginnings.

    A slot shows a beginning that is kept by mapping the store's file, copy-on-write, over its own addresses.
    ONNX Runtime writes behind a slot's tokens only, so nothing is ever copied but what fills no whole page.
    """

    def __init__(self, caches: Sequence[PagedCache], slots: int, length: int) -> None:
        super().__init__(caches, slots, length)
        self._caches = caches
        self._store = PrefixStore(caches)
        self.page_tokens = math.lcm(*(cache.page_tokens for cache in caches)) if caches else 1
        self._heads = sum(cache.shape[1] for cache in caches)
        self._chunks: list[list[Chunk]] = [[] for _ in range(slots)]
        self._ever_shown: set[int] = set()
        self._most_mappings = max_mappings() // _SHARE_OF_MAPPINGS

    @property
    def stored_bytes(self) -> int:  # type: ignore[override]
        return self._store.nbytes

    def shown(self, slot: int) -> int:
        return sum(max(0, last - first) for _, first, last in self._mapped(slot))

    def held(self, slot: int) -> int:
        return min(self._up(int(self.touched[slot])), self._length) - self.shown(slot)

    def move(self, source: int, target: int, length: int) -> None:
        self.reset(target)
        chunks = self._chunks[source]
        self._show(target, chunks)
        start = chunks[-1].stop if chunks else 0
        for cache in self._caches:
            cache.copy(source, target, start, length)
        self.touched[target] = max(self.touched[target], length)
        self.release(target, length)
        self.reset(source)

    def keep(self, slot: int, start: int, stop: int) -> Chunk:
        chunks = self._chunks[slot]
        follows = chunks[-1].stop == start if chunks else start == 0
        chunk = self._store.add(slot, start, stop, chunks[-1] if chunks and follows else None)
        if follows and self._may_map(slot, [*chunks, chunk]):
            self._add(slot, chunk)
            line, first, last = self._mapped(slot)[-1]
            self._map(slot, line, max(first, self._down(start)), last)
        return chunk

    def append(self, slot: int, kept: Sequence[Chunk]) -> None:
        if self._may_map(slot, kept):
            self._show(slot, kept)
        else:
            for chunk in kept:
                self._store.read(chunk.line, slot, chunk.start, chunk.stop)
        self.touched[slot] = max(self.touched[slot], kept[-1].stop if kept else 0)

    def reset(self, slot: int) -> None:
        if not self._chunks[slot]:
            return
        for cache in self._caches:
            cache.clear(slot)
        for chunk in self._chunks[slot]:
            chunk.slots -= 1
        self._chunks[slot].clear()
        self.touched[slot] = 0

    def release(self, slot: int, keep: int) -> None:
        first, last = self._up(keep), self._up(int(self.touched[slot]))
        if first < last:
            for cache in self._caches:
                cache.drop(slot, first, last)
            self.touched[slot] = first

    def is_shown(self, kept: Chunk) -> bool:
        return kept.slots > 0

    def fill(self, tokens: int) -> None:
        """Writes the first `tokens` tokens of every slot, as zeros."""
        for cache in self._caches:
            cache.array[:, :, :tokens] = 0
        np.maximum(self.touched, tokens, out=self.touched)

    def _show(self, slot: int, chunks: Sequence[Chunk]) -> None:
        """Maps the whole pages of chunks, from the first token on, and copies what fills none."""
        for chunk in chunks:
            self._add(slot, chunk)
        for line, start, stop in _runs(chunks):
            first, last = self._up(start), self._down(stop)
            self._map(slot, line, first, last)
            self._store.read(line, slot, start, min(first, stop))
            self._store.read(line, slot, max(min(first, stop), last), stop)
        self.touched[slot] = max(self.touched[slot], chunks[-1].stop if chunks else 0)

    def _map(self, slot: int, line: Line, first: int, last: int) -> None:
        if first < last:
            self._store.show(line, slot, first, last)

    def _add(self, slot: int, chunk: Chunk) -> None:
        self._ever_shown.add(slot)
        self._chunks[slot].append(chunk)
        chunk.slots += 1

    def _mapped(self, slot: int) -> list[tuple[Line, int, int]]:
        """Returns line, first and last token of what a slot shows; there may be none between."""
        return [(line, self._up(start), self._down(stop)) for line, start, stop in _runs(self._chunks[slot])]

    def _may_map(self, slot: int, chunks: Sequence[Chunk]) -> bool:
        """Returns whether the system has room for the mappings of a slot that shows some chunks, moved too.

        A slot's cache is one mapping in the end, and a second until the first is gone. A row is one for each
        run that it shows, and one for the rest.
        """
        pieces = [len(_runs(others)) + 1 for others in self._chunks if others] + [2 * len(_runs(chunks)) + 2]
        split = len(self._ever_shown | {slot}) * 2 * len(self._caches)
        return sum(pieces) * self._heads + split <= self._most_mappings

    def _up(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens) * self.page_tokens

    def _down(self, tokens: int) -> int:
        return tokens // self.page_tokens * self.page_tokens


def _runs(chunks: Sequence[Chunk]) -> list[tuple[Line, int, int]]:
    """Returns line, start and stop of chunks that lie behind each other in the store."""
    runs: list[tuple[Line, int, int]] = []
    for chunk in chunks:
        if runs and runs[-1][0] is chunk.line:
            runs[-1] = (chunk.line, runs[-1][1], chunk.stop)
        else:
            runs.append((chunk.line, chunk.start, chunk.stop))
    return runs
