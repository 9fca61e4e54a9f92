"""The bytes of weights that a step of an ONNX graph reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import TensorProto

_LOOKED_UP = {"Gather", "GatherBlockQuantized", "GroupQueryAttention"}
"""Of tables, these read a row for each token."""


def streamed_bytes(path: Path) -> int:
    """Of all initializers but tables."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return sum(_size(tensor) for tensor in graph.initializer if not readers[tensor.name] <= _LOOKED_UP)


def _size(tensor: TensorProto) -> int:
    from onnx import helper

    count = 1
    for dim in tensor.dims:
        count *= dim
    return count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
