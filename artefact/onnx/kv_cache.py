"""KV caches of one layer: in this process's memory, or in a device's.

Shapes: B slots, K KV heads, M cache length, H head dim.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper

from lathe.artefact.errors import UserError
from lathe.artefact.free_memory import check_cache_fits
from lathe.artefact.onnx.device import Device
from lathe.artefact.onnx.pages import PAGE, SUPPORTED, Pages

Value = type[np.float32] | type[np.float16] | type[np.int8]

TYPES: dict[str, Value] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}
"""Of a graph's cache inputs: the graph says what its attention keeps."""
_IDENTITY_IR, _IDENTITY_OPSET = 10, 21


class Cache(ABC):
    """Keys or values of one layer, [B, K, M, H], all zeros at first."""

    def __init__(self, shape: tuple[int, ...], dtype: Value) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.slot_bytes = int(np.prod(shape[1:])) * self.dtype.itemsize
        self.nbytes = shape[0] * self.slot_bytes

    @property
    @abstractmethod
    def address(self) -> int:
        """The address of the first slot; the others follow."""

    @abstractmethod
    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copies at least the positions `start` to `stop` of a slot to another."""

    @abstractmethod
    def read(self, slot: int, start: int, stop: int) -> Any:
        """A copy of some positions, kept where the cache is."""

    @abstractmethod
    def write(self, slot: int, start: int, part: Any) -> None:
        """Puts back what was read, from position `start` on."""


class HostCache(Cache):
    """In an array that takes all of its memory from the beginning."""

    def __init__(self, shape: tuple[int, ...], dtype: Value) -> None:
        super().__init__(shape, dtype)
        self.array = self._allocate()

    def _allocate(self) -> np.ndarray:
        """Filled, not `np.zeros`: untouched pages would make early reads look cheap."""
        return np.full(self.shape, 0, self.dtype)

    @property
    def address(self) -> int:
        return self.array.ctypes.data

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        self.array[target, :, start:stop] = self.array[source, :, start:stop]

    def read(self, slot: int, start: int, stop: int) -> np.ndarray:
        return self.array[slot, :, start:stop].copy()

    def write(self, slot: int, start: int, part: np.ndarray) -> None:
        self.array[slot, :, start : start + part.shape[1]] = part


class PagedCache(HostCache):
    """Takes memory as it is written, and gives it back. Every row, of one head of one slot, begins a page.

    Attributes:
        page_tokens: the fewest tokens that fill whole pages.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Value) -> None:
        self.token_bytes = shape[3] * np.dtype(dtype).itemsize
        self.page_tokens = math.lcm(PAGE, self.token_bytes) // self.token_bytes
        length = -(-shape[2] // self.page_tokens) * self.page_tokens
        self.row_bytes = length * self.token_bytes
        super().__init__((*shape[:2], length, shape[3]), dtype)

    def _allocate(self) -> np.ndarray:
        self._pages = Pages(self.nbytes)
        return self._pages.bytes.view(self.dtype).reshape(self.shape)

    def drop(self, slot: int, start: int, stop: int) -> None:
        """Gives back the memory of the positions `start` to `stop`, in whole pages."""
        if not start:
            self._pages.drop(slot * self.slot_bytes, (slot + 1) * self.slot_bytes)
            return
        for head in range(self.shape[1]):
            row = slot * self.slot_bytes + head * self.row_bytes
            self._pages.drop(row + start * self.token_bytes, row + stop * self.token_bytes)

    def show(self, slot: int, head: int, start: int, stop: int, file: int, row: int) -> None:
        """Maps a file's positions, in whole pages, of the row that begins at `row` there.

        Raises:
            OSError: the system has no room for another mapping.
        """
        here = slot * self.slot_bytes + head * self.row_bytes
        first, last = start * self.token_bytes, stop * self.token_bytes
        self._pages.show(here + first, here + last, file, row + first)

    def clear(self, slot: int) -> None:
        """Takes files and memory away from a slot."""
        self._pages.clear(slot * self.slot_bytes, (slot + 1) * self.slot_bytes)


class DeviceCache(Cache):
    """Slots are copied whole, by the device: they are contiguous there, parts of them are not."""

    def __init__(self, shape: tuple[int, ...], dtype: Value, copier: Copier) -> None:
        super().__init__(shape, dtype)
        self._copier = copier
        self._value = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, copier.device.name)
        self._value.update_inplace(np.zeros(shape, dtype))

    @property
    def address(self) -> int:
        return int(self._value.data_ptr())

    def copy(self, source: int, target: int, start: int, stop: int) -> None:  # noqa: ARG002
        first, other = (self.address + slot * self.slot_bytes for slot in (source, target))
        self._copier.copy(first, other, self.shape[1:], self.dtype)

    def read(self, slot: int, start: int, stop: int) -> ort.OrtValue:
        _, heads, _, head_dim = self.shape
        part = ort.OrtValue.ortvalue_from_shape_and_type(
            (heads, stop - start, head_dim), self.dtype.type, self._copier.device.name
        )
        for inside, outside, shape in self._heads(slot, start, part):
            self._copier.copy(inside, outside, shape, self.dtype)
        return part

    def write(self, slot: int, start: int, part: ort.OrtValue) -> None:
        for inside, outside, shape in self._heads(slot, start, part):
            self._copier.copy(outside, inside, shape, self.dtype)

    def _heads(self, slot: int, start: int, part: ort.OrtValue) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Yields the addresses of each head's positions here and in `part`.

        Only the positions of one head are contiguous.
        """
        heads, count, head_dim = part.shape()
        position = head_dim * self.dtype.itemsize
        here = self.address + slot * self.slot_bytes + start * position
        for head in range(heads):
            at = head * position
            yield here + at * self.shape[2], int(part.data_ptr()) + at * count, (count, head_dim)


class Copier:
    """Copies within a device's memory: a graph of one node, whose input and output are bound in place."""

    def __init__(self, device: Device, dtype: Value) -> None:
        self.device = device
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        node = helper.make_node("Identity", ["source"], ["target"])
        values = [helper.make_tensor_value_info(name, kind, None) for name in ("source", "target")]
        graph = helper.make_graph([node], "copy", values[:1], values[1:])
        opset = [helper.make_opsetid("", _IDENTITY_OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IDENTITY_IR)
        self._session = ort.InferenceSession(model.SerializeToString(), providers=[device.provider])

    def copy(self, source: int, target: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        bound = self._session.io_binding()
        bound.bind_input("source", self.device.name, 0, dtype, shape, source)
        bound.bind_output("target", self.device.name, 0, dtype, shape, target)
        self._session.run_with_iobinding(bound)


def allocate(session: ort.InferenceSession, device: Device, slots: int, length: int) -> dict[str, Cache]:
    """The caches that a graph asks for, by input name.

    Raises:
        UserError: there is too little memory.
    """
    copiers: dict[Value, Copier] = {}
    caches: dict[str, Cache] = {}
    wanted = {
        node.name: ((slots, node.shape[1], length, node.shape[3]), TYPES[node.type])
        for node in session.get_inputs()
        if node.name.startswith("past_key_values.")
    }
    paged = device.shares_memory and SUPPORTED
    if device.shares_memory and not paged:
        check_cache_fits(sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in wanted.values()))
    for name, (shape, dtype) in wanted.items():
        try:
            if device.shares_memory:
                caches[name] = PagedCache(shape, dtype) if paged else HostCache(shape, dtype)
            else:
                if dtype not in copiers:
                    copiers[dtype] = Copier(device, dtype)
                caches[name] = DeviceCache(shape, dtype, copiers[dtype])
        except (MemoryError, RuntimeError):
            raise UserError(
                f"no memory on the {device.name} for a KV cache of {shape}", "Lower max_batch or max_length."
            ) from None
    return caches
