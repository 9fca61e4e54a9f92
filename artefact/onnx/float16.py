"""A graph as the same graph with float16 in the place of float32, made while it is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper

from lathe.artefact.errors import UserError

_LOGITS = "logits"
_WEIGHT_BYTES = "lathe.weight_bytes"
_TABLES = ("cos", "sin", "window_cos", "window_sin")
"""Of positions, which are not counted as weights."""
_SINGLE, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def half_graph(path: Path, options: ort.SessionOptions) -> tuple[bytes, list[ort.OrtValue]]:
    """Returns the model with every float32 but its logits as float16, and its weights.

    The weights, which are registered with `options`, have to live as long as the session that is made with
    them.

    Raises:
        UserError: its KV cache is int8, which was not tried on a device that computes in float16.
    """
    model = onnx.load(path, load_external_data=False)
    if any(value.type.tensor_type.elem_type == TensorProto.INT8 for value in model.graph.input):
        raise UserError(
            f"{path} has an int8 KV cache, which is for the processor",
            "Serve it with --device cpu, or export it without --kv-cache int8.",
        )
    weights: dict[str, ort.OrtValue] = {}
    saved = 0
    for tensor in model.graph.initializer:
        if tensor.data_type != _SINGLE:
            continue
        half = _read(tensor, path.parent).astype(np.float16)
        tensor.data_type = _HALF
        if tensor.name not in _TABLES:
            saved += half.nbytes
        if tensor.data_location == TensorProto.EXTERNAL:
            weights[tensor.name] = ort.OrtValue.ortvalue_from_numpy(half)
        else:
            tensor.raw_data = half.tobytes()
    _retype(model)
    for entry in model.metadata_props:
        if entry.key == _WEIGHT_BYTES:
            entry.value = str(int(entry.value) - saved)
    options.add_external_initializers(list(weights), list(weights.values()))
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return model.SerializeToString(), list(weights.values())


def _read(tensor: TensorProto, folder: Path) -> np.ndarray:
    if tensor.data_location != TensorProto.EXTERNAL:
        return onnx.numpy_helper.to_array(tensor)
    at = {entry.key: entry.value for entry in tensor.external_data}
    count = int(np.prod(tensor.dims))
    data = np.fromfile(folder / at["location"], np.float32, count, offset=int(at.get("offset", 0)))
    return data.reshape(tensor.dims)


def _retype(model: onnx.ModelProto) -> None:
    """Inputs, outputs and casts; the logits are cast back."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == _SINGLE and value.name != _LOGITS:
            value.type.tensor_type.elem_type = _HALF
    for node in graph.node:
        if node.op_type == "Cast":
            _cast_to_half(node)
        node.output[:] = [f"{name}.half" if name == _LOGITS else name for name in node.output]
    graph.node.append(helper.make_node("Cast", [f"{_LOGITS}.half"], [_LOGITS], to=_SINGLE))


def _cast_to_half(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == _SINGLE:
            attribute.i = _HALF
