"""Messages between workers: any picklable value, with its tensors as arrays beside it."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch

Message = list[Any]
"""Bytes, then the arrays that belong in them."""


def pack(value: Any) -> Message:
    """Returns a value as bytes and arrays."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    return [stream.getvalue(), *(np.frombuffer(memoryview(buffer), np.uint8) for buffer in buffers)]


def unpack(message: Message) -> Any:
    """Returns a copy of a packed value, whose tensors may be written to."""
    data, *arrays = message
    return pickle.loads(data, buffers=arrays)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _tensor, (value.detach().contiguous().numpy(),)
        return NotImplemented


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())
