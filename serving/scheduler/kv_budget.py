"""How much memory keys and values may take: which sequences may begin, and when memory is given back.

A sequence reserves memory for its prompt and all tokens that it may generate before it begins. So none has to
be stopped for want of memory: one that is stopped and computed again would read its own answer as a prompt,
in other shapes of matrices, and not go on with the same bits.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lathe.serving.scheduler.sequence import Sequence


class PagedEngine(Protocol):
    """What a `SlotEngine` tells of its memory, and how it gives some back. All sizes are in bytes."""

    max_batch: int
    kv_bytes_per_token: int
    lengths: np.ndarray

    def kv_bytes(self, tokens: int) -> int:
        """Returns the memory of a slot of so many tokens."""

    def held_bytes(self, slot: int) -> int:
        """Returns the memory that a slot holds now for itself alone."""

    def shared_bytes(self, slot: int) -> int:
        """Returns the bytes of a slot's tokens whose memory is that of a cached prefix."""

    def release(self, slot: int, keep: int = 0) -> None:
        """Gives back a slot's memory beyond its tokens, and beyond `keep` tokens."""

    @property
    def kept_bytes(self) -> int:
        """The memory of cached prefixes."""


class KVBudget:
    """Counts what running sequences may come to hold, beside cached prefixes.

    Free slots keep their memory for a sequence that follows at once, as far as the total allows: memory that
    was held before is written in a quarter of the time.

    Attributes:
        total: the most memory for the tokens of sequences.
    """

    def __init__(self, engine: PagedEngine, total: int) -> None:
        self.total = total
        self._engine = engine
        self._reserved: dict[Sequence, int] = {}
        self._may_hold = True

    @property
    def reserved(self) -> int:
        """What running sequences may come to hold."""
        return sum(self._reserved.copy().values())

    @property
    def held(self) -> int:
        """The memory that is taken now, that of cached prefixes included."""
        slots = sum(self._engine.held_bytes(slot) for slot in range(self._engine.max_batch))
        return slots + self.kept

    @property
    def kept(self) -> int:
        """The memory of cached prefixes."""
        return self._engine.kept_bytes

    @property
    def used(self) -> int:
        """The bytes of running sequences' tokens, without cached prefixes."""
        shared = sum(self._engine.shared_bytes(slot) for slot in range(self._engine.max_batch))
        return max(0, int(self._engine.lengths.sum()) * self._engine.kv_bytes_per_token - shared)

    def admits(self, sequence: Sequence) -> bool:
        """Returns whether a sequence can begin now; one always can when none runs."""
        return self.reserved + self._engine.kv_bytes(sequence.most_tokens) <= self.total

    def reserve(self, sequence: Sequence, slot: int) -> None:
        """Reserves the memory of a sequence in the last slot in use, where its cached prefix is by now."""
        whole = self._engine.kv_bytes(sequence.most_tokens)
        self._reserved[sequence] = whole - self._engine.shared_bytes(slot)
        self._engine.release(slot, keep=sequence.most_tokens)
        free = range(slot + 1, self._engine.max_batch)
        if self.reserved + sum(self._engine.held_bytes(other) for other in free) > self.total:
            self.release(free)

    def cancel(self, sequence: Sequence) -> None:
        """Forgets the reservation of a sequence that has ended."""
        self._reserved.pop(sequence, None)
        self._may_hold = True

    def release(self, slots: range) -> None:
        """Gives back all memory of the free slots; at once where none has become free since the last time."""
        if self._may_hold:
            for slot in slots:
                self._engine.release(slot)
        self._may_hold = False
