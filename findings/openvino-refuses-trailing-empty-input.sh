#!/bin/sh
# Guess: an optional input of an ONNX node that is left out may be written as an empty name anywhere in the list, also at
#   its end; the ONNX specification allows both forms, and an importer reads them alike.
# Version: openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2.
# Behaviour: for com.microsoft's SkipSimplifiedLayerNormalization, ONNX Runtime runs both forms with the same result.
#   OpenVINO takes the short form and refuses the one whose last name is empty: it reads the empty name as a bias of
#   another type.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy
"$here/venv/bin/python" - "$here" <<'PY'
import sys
import numpy as np, onnx, onnxruntime, openvino
from onnx import TensorProto, helper, numpy_helper

def model(inputs):
    shape = [1, 4, 32]
    node = helper.make_node("SkipSimplifiedLayerNormalization", inputs, ["y"], domain="com.microsoft", epsilon=1e-5)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "skip")]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
                              [numpy_helper.from_array(np.ones(32, np.float32), "gamma")])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)

feeds = {n: np.random.default_rng(i).normal(size=(1, 4, 32)).astype(np.float32) for i, n in enumerate(("x", "skip"))}
results, read = [], {}
for name, inputs in {"short": ["x", "skip", "gamma"], "with an empty last name": ["x", "skip", "gamma", ""]}.items():
    made = model(inputs)
    results.append(onnxruntime.InferenceSession(made.SerializeToString()).run(None, feeds)[0])
    path = f"{sys.argv[1]}/{len(results)}.onnx"
    onnx.save(made, path)
    try:
        openvino.Core().read_model(path)
        read[name] = "read"
    except Exception as error:
        text = str(error)
        read[name] = "refused: " + next((l.strip() for l in text.splitlines() if "must be of same type" in l), text[:200])
    print(f"OpenVINO, {name}: {read[name]}")
same = np.array_equal(*results)
print("ONNX Runtime gives the same for both:", same)
sys.exit(not (same and read["short"] == "read" and read["with an empty last name"].startswith("refused")))
PY
