"""Prefill and decode of a GGUF file in one llama.cpp context, whose sequences are the slots.

Shapes: n slots of a decode step, S new tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.free_memory import check_cache_fits
from lathe.artefact.gguf.file import open_gguf
from lathe.artefact.huge_pages import huge_pages
from lathe.artefact.llamacpp.cache_size import kv_bytes_per_token
from lathe.artefact.llamacpp.context import CACHE_TYPES, Sizes, free_with, load_model, new_context
from lathe.artefact.llamacpp.library import explanation, llama_cpp
from lathe.artefact.llamacpp.token_batch import TokenBatch
from lathe.artefact.slot_checks import check_slot, checked_tokens

_BATCH, _OUTPUTS, _CELLS = 2048, 128, 256
"""Tokens that llama.cpp takes at a time, those with logits, and what lengths of caches are multiples of."""


class LlamaCppRunner:
    """Slots 0 to `max_batch` - 1, each of up to `max_length` tokens, in caches of their own.

    A slot's logits do not depend on other slots, but for one thing: with weights that are not quantized, a
    decode step of one token uses other kernels than one of several, and rounds differently.

    Attributes:
        vocab_size: tokens of the vocabulary.
        max_batch: how many slots there are.
        max_length: the most tokens of a slot.
        weight_bytes: bytes of all weights.
        kv_cache_bytes: bytes of all caches.
        kv_bytes_per_token: bytes of a token in a cache.
        lengths: tokens now in each slot, int64 [max_batch].
    """

    def __init__(
        self,
        model_path: Path,
        *,
        max_batch: int,
        max_length: int,
        threads: int | None = None,
        flash: bool = False,
        cache: str = "f16",
    ) -> None:
        """Loads a file and allocates all caches.

        Args:
            model_path: the GGUF file, or the first part of a split one.
            max_batch: how many slots.
            max_length: the most tokens of a slot.
            threads: of the processor; None: as many as there are cores.
            flash: flash attention, which reads long prompts faster, and rounds: it decodes slower.
            cache: the type of keys and values, f16 or f32.

        Raises:
            UserError: llama.cpp is missing, cannot load the file or run these sizes, or memory is too small.
        """
        self._api = api = llama_cpp()
        header = open_gguf(model_path)
        positions = header.required(f"{header.architecture}.context_length", int)
        most = api.llama_max_parallel_sequences()
        if not 1 <= max_batch <= most or not 1 <= max_length <= positions:
            raise UserError(
                f"max_batch {max_batch} and max_length {max_length} are impossible",
                f"{model_path} takes up to {positions} positions, llama.cpp {most} sequences.",
            )
        self.max_batch, self.max_length = max_batch, max_length
        self.lengths = np.zeros(max_batch, dtype=np.int64)
        room = -(-max_length // _CELLS) * _CELLS
        self.kv_bytes_per_token = kv_bytes_per_token(header, CACHE_TYPES[cache], flash=flash)
        self.kv_cache_bytes = self.kv_bytes_per_token * max_batch * room
        check_cache_fits(self.kv_cache_bytes)
        with huge_pages():
            model = load_model(model_path)
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self.weight_bytes = api.llama_model_size(model)
        self._sizes = Sizes(max_batch, room, max(_BATCH, max_batch), max(_OUTPUTS, max_batch))
        self._context = new_context(model, model_path, self._sizes, threads, cache, flash)
        free_with(self, model, self._context)
        self._memory = api.llama_get_memory(self._context)
        self._batch = TokenBatch(self._sizes.batch)

    def prefill(self, slot: int, tokens: np.ndarray, logits: Literal["last", "all"] = "last") -> np.ndarray:
        """Appends `tokens` [S] to a slot; several calls make a chunked prefill.

        Returns float32 logits [1, V] after the last token, or [S, V] after each.

        Raises:
            UserError: no such slot, no tokens, a token outside the vocabulary, more than `max_length`, or
                llama.cpp fails.
        """
        check_slot(slot, self.max_batch)
        tokens = self._checked(tokens)
        past, count = int(self.lengths[slot]), len(tokens)
        if past + count > self.max_length:
            raise UserError(f"{past} cached and {count} new tokens exceed the slot's {self.max_length}")
        step = self._sizes.outputs if logits == "all" else self._sizes.batch
        rows = []
        for start in range(0, count, step):
            part = tokens[start : start + step]
            last = start + step >= count
            wanted = slice(None) if logits == "all" else slice(len(part) - last, None)
            at = past + start
            rows.append(self._run(part, at + np.arange(len(part)), slot, wanted))
        self.lengths[slot] = past + count
        return np.concatenate(rows)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Appends one token to each of slots 0..n-1, n = len(tokens); returns float32 logits [n, V].

        Raises:
            UserError: more tokens than slots, a token outside the vocabulary, a slot that is full, or
                llama.cpp fails.
        """
        tokens = self._checked(tokens)
        count = len(tokens)
        if count > self.max_batch:
            raise UserError(f"{count} tokens for {self.max_batch} slots")
        lengths = self.lengths[:count]
        if lengths.max() >= self.max_length:
            longest = int(lengths.max())
            raise UserError(f"slot {int(lengths.argmax())} is full: {longest} of {self.max_length} tokens")
        result = self._run(tokens, lengths, np.arange(count), slice(None))
        lengths += 1
        return result

    def move(self, source: int, target: int) -> None:
        """Moves a slot's cached tokens to another slot, whose own are lost; `source` is left empty.

        Raises:
            UserError: no such slot, or llama.cpp fails.
        """
        if source != target:
            self.copy(source, target)
            self.reset(source)

    def copy(self, source: int, target: int) -> None:
        """Copies a slot's cached tokens to another slot, whose own are lost: theirs alone, not a whole cache.

        Raises:
            UserError: no such slot, or llama.cpp fails.
        """
        self.reset(target)
        check_slot(source, self.max_batch)
        if self.lengths[source]:
            self.restore(target, self.saved(source), int(self.lengths[source]))

    def saved(self, slot: int) -> np.ndarray:
        """Returns a slot's cached tokens in llama.cpp's own form, bytes.

        Raises:
            UserError: no such slot, or llama.cpp fails.
        """
        check_slot(slot, self.max_batch)
        api = self._api
        state = np.empty(api.llama_state_seq_get_size(self._context, slot), np.uint8)
        pointer = np.ctypeslib.as_ctypes(state)
        if not api.llama_state_seq_get_data(self._context, pointer, state.nbytes, slot):
            raise UserError(f"llama.cpp cannot save slot {slot}: {explanation()}")
        return state

    def restore(self, slot: int, state: np.ndarray, length: int) -> None:
        """Fills an empty slot with what `saved` returned, here or for a model with caches of the same sizes.

        Args:
            slot: the slot.
            state: cached tokens.
            length: how many.

        Raises:
            UserError: no such slot, or llama.cpp refuses.
        """
        check_slot(slot, self.max_batch)
        pointer = np.ctypeslib.as_ctypes(state)
        if not self._api.llama_state_seq_set_data(self._context, pointer, state.nbytes, slot):
            raise UserError(f"llama.cpp cannot fill slot {slot}: {explanation()}")
        self.lengths[slot] = length

    def reset(self, slot: int) -> None:
        """Forgets a slot's tokens."""
        check_slot(slot, self.max_batch)
        self.cut(slot, 0)

    def cut(self, slot: int, length: int) -> None:
        """Forgets a slot's tokens from position `length` on."""
        self._api.llama_memory_seq_rm(self._memory, slot, length, -1)
        self.lengths[slot] = min(length, self.lengths[slot])

    def _run(
        self, tokens: np.ndarray, positions: np.ndarray, slots: np.ndarray | int, outputs: slice
    ) -> np.ndarray:
        """Appends tokens; returns the logits after those of `outputs`, in their order."""
        api = self._api
        status = api.llama_decode(self._context, self._batch.fill(tokens, positions, slots, outputs))
        if status:
            for slot in np.unique(slots):
                self.cut(int(slot), int(self.lengths[slot]))
            raise UserError(f"llama.cpp failed on {len(tokens)} tokens (status {status}): {explanation()}")
        count = len(range(*outputs.indices(len(tokens))))
        if not count:
            return np.empty((0, self.vocab_size), np.float32)
        pointer = api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (count, self.vocab_size)).copy()

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        return checked_tokens(tokens, self.vocab_size).astype(np.int32)
