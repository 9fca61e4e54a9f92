"""Persistent input and output bindings of one step shape.

Binding every tensor anew costs about 12 % of a small model's decode step, so the caches are bound once.
ONNX Runtime keeps raw pointers: the arrays behind them live here as long as the binding. What lies in this
process's memory is copied to another device when it is bound, not when the graph is run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from lathe.artefact.onnx.device import CPU, Device
from lathe.artefact.onnx.kv_cache import Cache


class StepBinding:
    """Buffers and bindings for a fixed range of slots; write the inputs in place, then `run`.

    `tokens` int64 [B, S], `seqlens_k` int32 [B], `total_length` int32 scalar.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        caches: Mapping[str, Cache],
        slots: range,
        device: Device = CPU,
    ) -> None:
        batch = len(slots)
        self._bound = session.io_binding()
        self._caches = dict(caches)
        self._device = device
        self.tokens = np.zeros((batch, 0), np.int64)
        self._wanted = np.zeros((0, 2), np.int64)
        self._logits = np.zeros((0, 0), np.float32)
        self.seqlens_k = np.zeros(batch, np.int32)
        self.total_length = np.zeros((), np.int32)
        self._bind_lengths()
        for name, cache in self._caches.items():
            place = (
                device.name,
                0,
                cache.dtype,
                (batch, *cache.shape[1:]),
                cache.address + slots.start * cache.slot_bytes,
            )
            self._bound.bind_input(name, *place)
            self._bound.bind_output(name.replace("past_key_values", "present"), *place)

    def resize(self, tokens: np.ndarray, wanted: np.ndarray, logits: np.ndarray) -> None:
        """Binds new `tokens` [B, S], positions [R, 2] of the wanted logits, their place, float32 [R, V]."""
        self.tokens, self._wanted = tokens, np.ascontiguousarray(wanted, dtype=np.int64)
        self._bind_tokens()
        same = logits.ctypes.data == self._logits.ctypes.data and logits.shape == self._logits.shape
        self._logits = logits
        if not same:
            self._output("logits", logits)

    def run(self, session: ort.InferenceSession) -> np.ndarray:
        """Runs one step; returns a copy of the logits, float32 [R, V]."""
        if not self._device.shares_memory:
            self._bind_lengths()
            self._bind_tokens()
        session.run_with_iobinding(self._bound)
        return self._logits.copy()

    def _bind_lengths(self) -> None:
        self._input("seqlens_k", self.seqlens_k)
        self._input("total_sequence_length", self.total_length)

    def _bind_tokens(self) -> None:
        self._input("input_ids", self.tokens)
        self._input("logits_at", self._wanted)

    def _input(self, name: str, array: np.ndarray) -> None:
        self._bound.bind_input(name, CPU.name, 0, array.dtype, array.shape, array.ctypes.data)

    def _output(self, name: str, array: np.ndarray) -> None:
        self._bound.bind_output(name, CPU.name, 0, array.dtype, array.shape, array.ctypes.data)
