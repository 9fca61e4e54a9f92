"""Caches the keys and values of prompts' beginnings, so that a repeated system prompt is prefilled once.

Prompts are prefilled in chunks that are cut at fixed places, and a chunk's keys and values depend on the
tokens up to its end alone: what is restored is, bit for bit, what prefilling would give.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Protocol

from lathe.serving.backend import Observer
from lathe.serving.scheduler.sequence import Sequence as RunningSequence

KeysValues = Any
"""Keys and values of some tokens of a slot, in the engine's own form."""


class PrefixCachingEngine(Protocol):
    """The methods that a `SlotEngine` needs for prefix caching."""

    def keep_kv(self, slot: int, start: int, stop: int) -> KeysValues:
        """Keeps keys and values of tokens `start` to `stop` of a slot, as long as the result is kept."""

    def restore_kv(self, slot: int, kept: Sequence[KeysValues], tokens: int) -> None:
        """Fills an empty slot with the first `tokens` tokens of a prompt, kept one chunk after another."""

    def is_shown(self, kept: KeysValues) -> bool:
        """Returns whether the memory of what was kept is that of a slot, too."""


class PrefixCache:
    """Keeps the keys and values of whole chunks and evicts the least recently used ones that no slot shows.

    It serves one prompt at a time: `restore`, then `insert` after every chunk. A chunk is identified by the
    SHA-256 of the client's salt and all tokens up to its end.
    """

    def __init__(self, engine: PrefixCachingEngine, observer: Observer, chunk: int, tokens: int) -> None:
        """Creates an empty cache.

        Args:
            engine: copies keys and values out of its slots and into them.
            observer: is told how much of each prompt was found.
            chunk: tokens in a chunk.
            tokens: the most tokens to keep.
        """
        self._engine = engine
        self._observer = observer
        self._chunk = chunk
        self._capacity = tokens // chunk
        self._chunks: OrderedDict[bytes, KeysValues] = OrderedDict()
        self._keys: list[bytes] = []

    def restore(self, sequence: RunningSequence, slot: int) -> None:
        """Fills an empty slot with the cached beginning of a prompt.

        The last token of a prompt is always computed, since its logits are needed; so are all tokens of a
        prompt whose log-probabilities were requested.
        """
        self._keys = self._keys_of(sequence)
        tokens = len(sequence.request.prompt)
        usable = 0 if sequence.request.prompt_logprobs else (tokens - 1) // self._chunk
        cached = list(takewhile(self._chunks.__contains__, self._keys[:usable]))
        found = len(cached) * self._chunk
        self._engine.restore_kv(slot, [self._chunks[key] for key in cached], found)
        self._touch(len(cached))
        sequence.num_computed = sequence.num_cached = found
        self._observer.prefix(tokens, sequence.num_computed)

    def insert(self, slot: int, stop: int) -> None:
        """Caches the chunk that ends at token `stop` of the prompt that was restored last, if it is whole."""
        if stop % self._chunk:
            return
        count = stop // self._chunk
        key = self._keys[count - 1]
        if key not in self._chunks:
            self._chunks[key] = self._engine.keep_kv(slot, stop - self._chunk, stop)
        self._touch(count)
        while len(self._chunks) > self._capacity:
            del self._chunks[self._evicted(key)]

    def _evicted(self, newest: bytes) -> bytes:
        """Returns the chunk to let go of.

        One that a slot shows would stay in memory without being counted here; a slot pays for its own newest.
        """
        idle = (key for key, kept in self._chunks.items() if not self._engine.is_shown(kept))
        return next(idle, newest)

    def _touch(self, count: int) -> None:
        """Marks chunks as used, the first one most recently: the others are of no use without it."""
        for key in reversed(self._keys[:count]):
            if key in self._chunks:
                self._chunks.move_to_end(key)

    def _keys_of(self, sequence: RunningSequence) -> list[bytes]:
        request = sequence.request
        salt = hashlib.sha256(request.cache_salt.encode(errors="surrogatepass")).digest()
        running = hashlib.sha256(salt)
        keys = []
        for stop in range(self._chunk, len(request.prompt) + 1, self._chunk):
            running.update(request.prompt[stop - self._chunk : stop].tobytes())
            keys.append(running.digest())
        return keys
