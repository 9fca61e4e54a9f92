"""A graph once more, as engines call it that give a mask, such as onnxruntime-genai.

Shapes: B batch, S new tokens, T cached and new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OURS = ("seqlens_k", "total_sequence_length", "logits_at")
_LOGITS = "logits"
_FORMAT = "lathe.format"
"""The entry of metadata by which Lathe's engine knows its graphs."""


def masked(model: onnx.ModelProto) -> onnx.ModelProto:
    r"""Returns a graph that has an input `attention_mask` [B, T] instead of those of Lathe's own engine.

    Rows are padded on the right: ones, then zeros; tokens that follow are ones again. `logits` [B, 1, V] are
    those after the last token of each row. The weights stay where they are, in the same data file.

    Subgraph, before and behind the nodes of `model`:

             attention_mask [B, T]          input_ids [B, S]
              /                \                  |
          ReduceSum             T                 S
              |                 | \              /
             - 1   total_sequence_length    T - S
              |  \                            |
          seqlens_k  columns = max(0, lasts - (T - S))
                                 |
          normed [B, S, D] -> GatherND -> head -> Unsqueeze -> logits
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    inputs = [value for value in graph.input if value.name not in _OURS]
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"])
    nodes = [*_made_of_mask(), *map(_last_rows, graph.node)]
    nodes.append(_node("Unsqueeze", [f"{_LOGITS}.rows", "mask.one"], _LOGITS))
    vocabulary = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    logits = helper.make_tensor_value_info(_LOGITS, TensorProto.FLOAT, ["batch", 1, vocabulary])
    for name, value in (("mask.zero", 0), ("mask.one", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    del graph.input[:], graph.node[:]
    graph.input.extend([inputs[0], mask, *inputs[1:]])
    graph.node.extend(nodes)
    graph.output[0].CopyFrom(logits)
    others = [entry for entry in model.metadata_props if entry.key != _FORMAT]
    del made.metadata_props[:]
    made.metadata_props.extend(others)
    return made


def _made_of_mask() -> list[onnx.NodeProto]:
    return [
        _node("ReduceSum", ["attention_mask", "mask.one"], "mask.lengths"),
        _node("Sub", ["mask.lengths", "mask.one"], "mask.lasts"),
        _node("Squeeze", ["mask.lasts", "mask.one"], "mask.lasts.flat"),
        _node("Cast", ["mask.lasts.flat"], "seqlens_k", to=TensorProto.INT32),
        _node("Shape", ["attention_mask"], "mask.total", start=1, end=2),
        _node("Squeeze", ["mask.total"], "mask.total.scalar"),
        _node("Cast", ["mask.total.scalar"], "total_sequence_length", to=TensorProto.INT32),
        _node("Shape", ["input_ids"], "mask.new", start=1, end=2),
        _node("Sub", ["mask.total", "mask.new"], "mask.cached"),
        _node("Sub", ["mask.lasts", "mask.cached"], "mask.found"),
        _node("Max", ["mask.found", "mask.zero"], "mask.columns"),
    ]


def _last_rows(node: onnx.NodeProto) -> onnx.NodeProto:
    """Returns a node, which chooses its rows by the mask where it chose those of `logits_at`."""
    if "logits_at" in node.input:
        return _node("GatherND", [node.input[0], "mask.columns"], node.output[0], batch_dims=1)
    if node.output[0] == _LOGITS:
        node.name = node.output[0] = f"{_LOGITS}.rows"
    return node


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=output, **attributes)
