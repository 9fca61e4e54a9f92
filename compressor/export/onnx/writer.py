"""An ONNX model written as a stream: nodes in memory, weights straight to the external data file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper

from lathe.artefact.atomic_files import atomic_write, sync_directory, write_bytes
from lathe.artefact.large_writes import LargeWrites
from lathe.artefact.onnx.graph_format import DATA_FILE, MODEL_FILE

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
_OPSET, _IR_VERSION = 23, 11
_PAGE, _LINE = 4096, 64
_INLINE_LIMIT = 1024
_TYPES = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64, torch.uint8: TensorProto.UINT8}


@dataclass(frozen=True)
class Storage:
    """How a graph is stored.

    Attributes:
        durable: Whether it is synced; one that is soon removed need not be.
        nested: Whether every matrix is by itself and by rows, so that a narrower one is the first rows of it.
    """

    durable: bool = True
    nested: bool = False


AS_USUAL = Storage()


class GraphWriter:
    """Collects nodes; appends each weight to the data file as it comes, page-aligned to be mapped.

    metadata: what the model says of itself. weight_bytes: of all weights so far.
    nested: as in `Storage`.
    """

    def __init__(self, data: LargeWrites, nested: bool = False) -> None:
        self.nested = nested
        self.metadata: dict[str, str] = {}
        self.weight_bytes = 0
        self._data = data
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, kind: int, dims: Sequence[str | int]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def output(self, name: str, kind: int, dims: Sequence[str | int]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Adds a node, named after its first output, which is returned.

        Inputs that are left out have empty names. At the end of the list none is written: ONNX Runtime takes
        them there, OpenVINO (2026.4) refuses the model.
        """
        last = max((place for place, name in enumerate(inputs, 1) if name), default=0)
        self._nodes.append(
            helper.make_node(operator, inputs[:last], outputs, name=outputs[0], domain=domain, **attributes)
        )
        return outputs[0]

    def weight(self, name: str, value: torch.Tensor) -> str:
        """Appends a weight to the data file; the tensor is not kept."""
        self.weight_bytes += value.nbytes
        return self.constant(name, value)

    def reshaped(self, name: str, weight: str, dims: Sequence[int]) -> str:
        """A weight once more, in other dimensions; the bytes are the same ones, stored once."""
        proto = TensorProto()
        proto.CopyFrom(self._initializers[weight])
        proto.name, proto.dims[:] = name, dims
        self._initializers[name] = proto
        return name

    def constant(self, name: str, value: torch.Tensor) -> str:
        """Appends what is not a weight of the model: a table, a shape."""
        proto = TensorProto(name=name, data_type=_TYPES[value.dtype], dims=list(value.shape))
        content = value.detach().contiguous().view(-1).view(torch.uint8).numpy().data
        if len(content) < _INLINE_LIMIT:
            proto.raw_data = bytes(content)
        else:
            set_location(proto, DATA_FILE, append_aligned(self._data, content), len(content))
        self._initializers[name] = proto
        return name

    def model(self) -> onnx.ModelProto:
        used = {name for node in self._nodes for name in node.input}
        weights = [proto for name, proto in self._initializers.items() if name in used]
        graph = helper.make_graph(self._nodes, "lathe", self._inputs, self._outputs, weights)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="lathe")
        helper.set_model_props(model, self.metadata)
        return model


def append_aligned(data: LargeWrites, content: memoryview) -> int:
    """Appends what is to be mapped, from the next page on, or line of the cache if it is small.

    Returns:
        Its offset.
    """
    alignment = _PAGE if len(content) >= _PAGE else _LINE
    data.write(bytes(-data.tell() % alignment))
    offset = data.tell()
    data.write(content)
    return offset


def set_location(proto: TensorProto, file: str, offset: int, length: int) -> None:
    """Makes a tensor one whose bytes are in a file beside the graph."""
    proto.data_location = TensorProto.EXTERNAL
    del proto.external_data[:]
    for key, entry in (("location", file), ("offset", offset), ("length", length)):
        proto.external_data.add(key=key, value=str(entry))


@contextmanager
def graph_writer(directory: Path, expected_bytes: int, storage: Storage) -> Iterator[GraphWriter]:
    """Writes `model.onnx` and `model.onnx.data` into `directory` from what is added in the block.

    Both files appear complete or not at all, the data first; an older graph goes before its data does.

    Raises:
        UserError: the file system refuses; names the file and `expected_bytes`.
    """
    with atomic_write(directory / DATA_FILE, expected_bytes, durable=storage.durable) as data:
        pieces = LargeWrites(data)
        writer = GraphWriter(pieces, storage.nested)
        yield writer
        pieces.flush()
        model = writer.model()
        (directory / MODEL_FILE).unlink(missing_ok=True)
    write_bytes(directory / MODEL_FILE, model.SerializeToString(), durable=storage.durable)
    if storage.durable:
        sync_directory(directory)
