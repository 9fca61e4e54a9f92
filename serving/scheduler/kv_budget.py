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


class KVPool:
    """What the running sequences of one engine, or of several, may take together.

    A sequence that does not fit keeps its turn: none that arrived later begins before it, on any engine.

    Attributes:
        total: the most memory for the tokens of sequences, beside cached prefixes.
        members: the budgets of the engines.
    """

    def __init__(self, total: int, max_running: int | None = None) -> None:
        """Creates a pool; `max_running` bounds the sequences that run together, if given."""
        self.total = total
        self.members: list[KVBudget] = []
        self._max_running = max_running
        self._first: Sequence | None = None

    @property
    def reserved(self) -> int:
        """What running sequences may come to hold."""
        return sum(member.reserved for member in self.members)

    def admits(self, sequence: Sequence, size: int) -> bool:
        """Returns whether a sequence of so many bytes can begin now."""
        first = self._first
        if first is not None and first is not sequence and first.request.arrived <= sequence.request.arrived:
            return False
        running = sum(member.num_running for member in self.members)
        fits = self.reserved + size <= self.total
        admitted = fits and (self._max_running is None or running < self._max_running)
        self._first = None if admitted else sequence
        return admitted

    def forget(self, sequence: Sequence) -> None:
        """Forgets the turn of a sequence that waits no more."""
        if self._first is sequence:
            self._first = None

    def make_room(self, own: KVBudget) -> None:
        """Gives back memory of free slots where it takes what is reserved; that of other engines last."""
        for member in (own, *(other for other in self.members if other is not own)):
            if self.reserved + sum(each.spare for each in self.members) <= self.total:
                return
            member.release()


class KVBudget:
    """Counts what the running sequences of an engine may come to hold, beside cached prefixes.

    Free slots keep their memory for a sequence that follows at once, as far as the total allows: memory that
    was held before is written in a quarter of the time.
    """

    def __init__(self, engine: PagedEngine, pool: KVPool) -> None:
        self._engine = engine
        self._pool = pool
        self._reserved: dict[Sequence, int] = {}
        self._may_hold = True
        pool.members.append(self)

    @property
    def total(self) -> int:
        """The most memory for the tokens of sequences, those of other engines of the pool included."""
        return self._pool.total

    @property
    def reserved(self) -> int:
        """What running sequences may come to hold."""
        return sum(self._reserved.copy().values())

    @property
    def num_running(self) -> int:
        """The number of sequences that have a slot."""
        return len(self._reserved)

    @property
    def spare(self) -> int:
        """The memory that free slots hold."""
        return sum(self._engine.held_bytes(slot) for slot in self._free)

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
        """Returns whether a sequence can begin now; one always can when none runs and none waits longer."""
        return self._pool.admits(sequence, self._engine.kv_bytes(sequence.most_tokens))

    def reserve(self, sequence: Sequence, slot: int) -> None:
        """Reserves the memory of a sequence in the last slot in use, where its cached prefix is by now."""
        whole = self._engine.kv_bytes(sequence.most_tokens)
        self._reserved[sequence] = whole - self._engine.shared_bytes(slot)
        self._engine.release(slot, keep=sequence.most_tokens)
        self._pool.make_room(self)

    def cancel(self, sequence: Sequence) -> None:
        """Forgets a sequence that has ended, or will not begin."""
        self._pool.forget(sequence)
        self._reserved.pop(sequence, None)
        self._may_hold = True

    def release(self) -> None:
        """Gives back all memory of the free slots; at once where none has become free since the last time."""
        if self._may_hold:
            for slot in self._free:
                self._engine.release(slot)
        self._may_hold = False

    @property
    def _free(self) -> range:
        """The slots without a sequence: the running ones have the first."""
        return range(len(self._reserved), self._engine.max_batch)
