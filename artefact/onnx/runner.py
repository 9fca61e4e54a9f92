"""Prefill and decode on one ONNX Runtime session, the KV cache updated in place.

Shapes: n slots of a decode step, S new tokens, V vocabulary, K KV heads, M cache length, H head dim.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnxruntime as ort
from google.protobuf.message import DecodeError

from lathe.artefact.errors import UserError
from lathe.artefact.free_memory import check_cache_fits
from lathe.artefact.huge_pages import huge_pages
from lathe.artefact.onnx.binding import StepBinding
from lathe.artefact.onnx.device import CPU, Device, check_installed, check_used
from lathe.artefact.onnx.float16 import half_graph
from lathe.artefact.onnx.graph_format import GRAPH_FORMAT
from lathe.artefact.onnx.kv_cache import HostCache, PagedCache, allocate
from lathe.artefact.onnx.minimum_version import ENTRY, OLDEST, check_graph, check_version
from lathe.artefact.onnx.prompt_reader import PromptReader
from lathe.artefact.onnx.slot_memory import KeysValues, PagedSlots, WholeSlots
from lathe.artefact.slot_checks import check_slot, checked_tokens


def open_session(
    path: Path, threads: int | None, device: Device = CPU
) -> tuple[ort.InferenceSession, list[ort.OrtValue]]:
    """A session on one device, and what has to live as long.

    `threads` None: ONNX Runtime's choice. They stay busy between the operators of a run, and sleep between
    runs, when other sessions and the server need the cores.

    Raises:
        UserError: the file is missing, damaged or not an ONNX model, or the device cannot be used.
    """
    check_installed(device)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        model, weights = half_graph(path, options) if device.half else (str(path), [])
        session = ort.InferenceSession(model, options, providers=[device.provider], enable_fallback=0)
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        with contextlib.suppress(OSError, DecodeError):
            check_graph(path)
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"ONNX Runtime cannot load {path} on the {device.name}: {reason}") from None
    check_used(session, device)
    return session, weights


class OnnxRunner:
    """An ONNX Runtime session with a slot-major KV cache in place.

    Each attention layer has a key and a value cache [max_batch, K, max_length, H] with its own K, of the type
    that the graph asks for. A slot holds one sequence, of which `lengths[slot]` tokens are cached. On the CPU
    of a Linux system it takes memory as its tokens come; elsewhere all memory is taken at the start. Not
    thread-safe.

    Attributes:
        takes_pages: whether slots take memory as their tokens come.
        kv_cache_bytes: the keys and values of all slots when they are full.
        positions: of the model.
        prompt_reader: reads what it takes of prompts in place of ONNX Runtime; on the CPU alone.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        max_batch: int,
        max_length: int,
        threads: int | None = None,
        device: Device = CPU,
    ) -> None:
        """Loads `model_path` and makes the slots.

        Raises:
            UserError: not a graph of Lathe's exporter, a size that it cannot run, too little memory, or a
                device that cannot be used.
        """
        self.device = device
        with huge_pages() if device is CPU else contextlib.nullcontext():
            self.session, self._weights = open_session(model_path, threads, device)
        metadata = self.session.get_modelmeta().custom_metadata_map
        if metadata.get("lathe.format") != GRAPH_FORMAT:
            raise UserError(f"{model_path} is not a `{GRAPH_FORMAT}` graph", "Export it with this lathe.")
        check_version(metadata.get(ENTRY, OLDEST), str(model_path))
        self.positions = int(metadata["lathe.max_position_embeddings"])
        if max_batch < 1 or not 1 <= max_length <= self.positions:
            raise UserError(
                f"max_batch {max_batch} and max_length {max_length} are impossible",
                f"{model_path} takes up to {self.positions} positions and a batch of at least 1.",
            )
        self.max_batch, self.max_length = max_batch, max_length
        self.vocab_size = int(self.session.get_outputs()[0].shape[1])
        self.weight_bytes = int(metadata["lathe.weight_bytes"])
        self.lengths = np.zeros(max_batch, dtype=np.int64)
        self._caches = allocate(self.session, device, max_batch, max_length)
        self.kv_bytes_per_token = sum(
            cache.shape[1] * cache.shape[3] * cache.dtype.itemsize for cache in self._caches.values()
        )
        self.kv_cache_bytes = max_batch * max_length * self.kv_bytes_per_token
        self._memory = self._slot_memory()
        self.takes_pages = isinstance(self._memory, PagedSlots)
        self._prompt_logits = np.empty((1, self.vocab_size), np.float32)
        self._step_logits = np.empty((max_batch, self.vocab_size), np.float32)
        self.prompt_reader: PromptReader | None = None
        self._prefills: dict[int, StepBinding] = {}
        self._decodes: dict[int, StepBinding] = {}

    def prefill(self, slot: int, tokens: np.ndarray, logits: Literal["last", "all"] = "last") -> np.ndarray:
        """Appends `tokens` [S] to a slot; several calls make a chunked prefill.

        Returns float32 logits [1, V] after the last token, or [S, V] after each.

        Raises:
            UserError: no such slot, no tokens, a token outside the vocabulary, or more than `max_length`.
        """
        check_slot(slot, self.max_batch)
        tokens = self._checked(tokens)
        past, count = int(self.lengths[slot]), len(tokens)
        if past + count > self.max_length:
            raise UserError(f"{past} cached and {count} new tokens exceed the slot's {self.max_length}")
        columns = np.arange(count) if logits == "all" else np.array([count - 1])
        self._memory.touched[slot] = max(self._memory.touched[slot], past + count)
        if self.prompt_reader is not None and self.prompt_reader.takes(past, count):
            result = self.prompt_reader.read(tokens, past, self._arrays(slot), columns)
        else:
            result = self._read(slot, tokens, columns)
        self.lengths[slot] = past + count
        return result

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Appends one token to each of slots 0..n-1, n = len(tokens); returns float32 logits [n, V].

        Raises:
            UserError: more tokens than slots, a token outside the vocabulary, or a slot that is full.
        """
        tokens = self._checked(tokens)
        count = len(tokens)
        if count > self.max_batch:
            raise UserError(f"{count} tokens for {self.max_batch} slots")
        lengths = self.lengths[:count]
        longest = int(lengths.max())
        if longest >= self.max_length:
            raise UserError(f"slot {int(lengths.argmax())} is full: {longest} of {self.max_length} tokens")
        binding = self._decodes.get(count)
        if binding is None:
            binding = self._decodes[count] = self._binding(0, count)
            rows = np.arange(count)
            places = np.stack([rows, np.zeros_like(rows)], axis=1)
            binding.resize(np.empty((count, 1), np.int64), places, self._step_logits[:count])
        binding.tokens[:, 0] = tokens
        binding.seqlens_k[:] = lengths
        binding.total_length[()] = longest + 1
        touched = self._memory.touched[:count]
        np.maximum(touched, lengths + 1, out=touched)
        result = binding.run(self.session)
        lengths += 1
        return result

    def move(self, source: int, target: int) -> None:
        """Moves a slot's cached tokens to another slot, whose own are lost; `source` is left empty."""
        check_slot(source, self.max_batch)
        check_slot(target, self.max_batch)
        if source == target:
            return
        length = int(self.lengths[source])
        self._memory.move(source, target, length)
        self.lengths[target], self.lengths[source] = length, 0

    def copy_kv(self, slot: int, start: int, stop: int) -> KeysValues:
        """Returns a copy of the keys and values of tokens `start` to `stop` of a slot."""
        check_slot(slot, self.max_batch)
        return start, stop, [cache.read(slot, start, stop) for cache in self._caches.values()]

    def append_kv(self, slot: int, kv: KeysValues) -> None:
        """Appends to a slot the keys and values that were copied from tokens at the same positions.

        Raises:
            UserError: no such slot, or it does not end where the tokens belong.
        """
        check_slot(slot, self.max_batch)
        start, stop, parts = kv
        if self.lengths[slot] != start:
            raise UserError(f"tokens kept from {start} on do not follow {self.lengths[slot]} cached ones")
        for cache, part in zip(self._caches.values(), parts, strict=True):
            cache.write(slot, start, part)
        self._memory.touched[slot] = max(self._memory.touched[slot], stop)
        self.lengths[slot] = stop

    def keep_kv(self, slot: int, start: int, stop: int) -> Any:
        """Keeps keys and values of tokens `start` to `stop` of a slot while the caller keeps the result.

        Where slots take pages, the slot shares that memory from now on.
        """
        check_slot(slot, self.max_batch)
        return self._memory.keep(slot, start, stop)

    def restore_kv(self, slot: int, kept: Sequence[Any], tokens: int) -> None:
        """Fills an empty slot with the first `tokens` tokens of a sequence, kept one part after another.

        Raises:
            UserError: no such slot, or it is not empty.
        """
        check_slot(slot, self.max_batch)
        if self.lengths[slot]:
            raise UserError(f"slot {slot} is not empty: it has {self.lengths[slot]} tokens")
        self._memory.append(slot, kept)
        self.lengths[slot] = tokens

    def is_shown(self, kept: Any) -> bool:
        """Returns whether the memory of what was kept is that of a slot, too."""
        return self._memory.is_shown(kept)

    def reset(self, slot: int) -> None:
        """Forgets a slot's tokens; the memory stays for the next ones until `release`."""
        check_slot(slot, self.max_batch)
        self.lengths[slot] = 0
        self._memory.reset(slot)

    def release(self, slot: int, keep: int = 0) -> None:
        """Gives back a slot's memory, but for that of its tokens, and of `keep` tokens at least."""
        check_slot(slot, self.max_batch)
        self._memory.release(slot, max(keep, int(self.lengths[slot])))

    def fill(self, tokens: int) -> None:
        """Takes the memory of `tokens` zeros in every slot: reading what was never written costs less.

        Raises:
            UserError: there is too little memory.
        """
        if isinstance(self._memory, PagedSlots):
            check_cache_fits(self.max_batch * self.kv_bytes(tokens))
            self._memory.fill(tokens)

    def kv_bytes(self, tokens: int) -> int:
        """Returns the memory of a slot of so many tokens, in whole pages but for a full one's."""
        page = self._memory.page_tokens
        return self.kv_bytes_per_token * min(-(-tokens // page) * page, self.max_length)

    def held_bytes(self, slot: int) -> int:
        """Returns the memory that a slot holds now for itself alone."""
        return self.kv_bytes_per_token * self._memory.held(slot)

    def shared_bytes(self, slot: int) -> int:
        """Returns the bytes of a slot's tokens whose memory is that of what was kept."""
        return self.kv_bytes_per_token * self._memory.shown(slot)

    @property
    def kept_bytes(self) -> int:
        """The memory of what was kept."""
        return self._memory.stored_bytes

    def _read(self, slot: int, tokens: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Appends tokens to a slot in ONNX Runtime; returns the logits after those at `columns`."""
        past, count = int(self.lengths[slot]), len(tokens)
        binding = self._prefills.get(slot)
        if binding is None:
            binding = self._prefills[slot] = self._binding(slot, slot + 1)
        wanted = np.stack([np.zeros_like(columns), columns], axis=1)
        if len(wanted) > len(self._prompt_logits):
            self._prompt_logits = np.empty((len(wanted), self.vocab_size), np.float32)
        binding.resize(tokens.reshape(1, count), wanted, self._prompt_logits[: len(wanted)])
        binding.seqlens_k[0] = binding.total_length[()] = past + count
        binding.seqlens_k[0] -= 1
        return binding.run(self.session)

    def _arrays(self, slot: int) -> dict[str, np.ndarray]:
        """A slot's keys and values where they lie in this process's memory, by input name."""
        return {
            name: cache.array[slot : slot + 1]
            for name, cache in self._caches.items()
            if isinstance(cache, HostCache)
        }

    def _slot_memory(self) -> WholeSlots:
        caches = list(self._caches.values())
        if caches and all(isinstance(cache, PagedCache) for cache in caches):
            return PagedSlots(cast("list[PagedCache]", caches), self.max_batch, self.max_length)
        return WholeSlots(caches, self.max_batch, self.max_length)

    def _binding(self, first: int, stop: int) -> StepBinding:
        return StepBinding(self.session, self._caches, range(first, stop), self.device)

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(checked_tokens(tokens, self.vocab_size), dtype=np.int64)
