"""Beginnings of prompts that were read before, so that a repeated system prompt is not read again.

Prompts are read in chunks that are cut at fixed places, and a chunk's keys and values depend on the tokens up
to its end alone: what is put back is, bit for bit, what reading would give.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from itertools import takewhile
from typing import Any, Protocol

from lathe.serving.backend import Observer
from lathe.serving.scheduler.sequence import Sequence

KeptTokens = Any
"""Keys and values of some tokens of a slot, as an engine keeps them."""


class KeepingEngine(Protocol):
    """What a `SlotEngine` has to do besides."""

    def keep(self, slot: int, start: int, stop: int) -> KeptTokens:
        """A copy of what is cached of tokens `start` to `stop` of a slot."""

    def put_back(self, slot: int, kept: KeptTokens) -> None:
        """Append to a slot what was kept of tokens at the same place."""


class PrefixCache:
    """Keeps the keys and values of whole chunks, the least recently used ones go first. For one prompt at a
    time: `begin`, then `keep` after every chunk.

    A chunk is known by the SHA-256 of the client's salt and all tokens up to its end.
    """

    def __init__(self, engine: KeepingEngine, observer: Observer, chunk: int, tokens: int) -> None:
        """`chunk`: tokens in a chunk; `tokens`: the most to keep."""
        self._engine = engine
        self._observer = observer
        self._chunk = chunk
        self._room = tokens // chunk
        self._kept: OrderedDict[bytes, KeptTokens] = OrderedDict()
        self._keys: list[bytes] = []

    def begin(self, sequence: Sequence, slot: int) -> None:
        """Put into an empty slot what is known of a prompt, but its last token: its logits are wanted. Of a
        prompt that is to be scored, all logits are.
        """
        self._keys = self._keys_of(sequence)
        tokens = len(sequence.request.prompt)
        usable = 0 if sequence.request.score_prompt else (tokens - 1) // self._chunk
        known = list(takewhile(self._kept.__contains__, self._keys[:usable]))
        for key in known:
            self._engine.put_back(slot, self._kept[key])
        self._touch(len(known))
        sequence.prefilled = sequence.cached = len(known) * self._chunk
        self._observer.prefix(tokens, sequence.prefilled)

    def keep(self, slot: int, stop: int) -> None:
        """Keep the chunk that ends at token `stop` of the prompt that was begun, if it is a whole one."""
        if stop % self._chunk:
            return
        count = stop // self._chunk
        key = self._keys[count - 1]
        if key not in self._kept:
            self._kept[key] = self._engine.keep(slot, stop - self._chunk, stop)
        self._touch(count)
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)

    def _touch(self, count: int) -> None:
        """The first chunk is the most recently used: without it the others are of no use."""
        for key in reversed(self._keys[:count]):
            if key in self._kept:
                self._kept.move_to_end(key)

    def _keys_of(self, sequence: Sequence) -> list[bytes]:
        request = sequence.request
        salt = hashlib.sha256(request.cache_salt.encode(errors="surrogatepass")).digest()
        running = hashlib.sha256(salt)
        keys = []
        for stop in range(self._chunk, len(request.prompt) + 1, self._chunk):
            running.update(request.prompt[stop - self._chunk : stop].tobytes())
            keys.append(running.digest())
        return keys
