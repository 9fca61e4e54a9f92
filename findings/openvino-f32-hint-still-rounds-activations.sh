#!/bin/sh
# Guess: INFERENCE_PRECISION_HINT f32 makes OpenVINO's CPU plugin compute in float32: with weights stored in 8 bits the
#   product is that of the dequantized weights, up to float32's rounding.
# Version: openvino 2026.4.1, onnx 1.23.2 (a processor with AVX-512 VNNI or AMX).
# Behaviour: the inputs of the product are rounded to 8 bits all the same, in groups; the property that reads back is f32.
#   The product is wrong by half a percent, not by a millionth. DYNAMIC_QUANTIZATION_GROUP_SIZE 0 is needed as well.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy
"$here/venv/bin/python" - "$here" <<'PY'
import sys
import numpy as np, onnx, openvino
from onnx import TensorProto, helper, numpy_helper

ROWS, INPUTS, OUTPUTS, BLOCK = 64, 512, 512, 32
rng = np.random.default_rng(0)
codes = rng.integers(0, 256, (OUTPUTS, INPUTS // BLOCK, BLOCK)).astype(np.uint8)
scales = rng.uniform(0.001, 0.002, (OUTPUTS, INPUTS // BLOCK)).astype(np.float32)
x = rng.normal(size=(1, ROWS, INPUTS)).astype(np.float32)
exact = x.astype(np.float64) @ ((codes.astype(np.float64) - 128) * scales[..., None]).reshape(OUTPUTS, INPUTS).T

node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft",
                        K=INPUTS, N=OUTPUTS, bits=8, block_size=BLOCK)
values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, ROWS, w]) for n, w in (("x", INPUTS), ("y", OUTPUTS))]
graph = helper.make_graph([node], "g", values[:1], values[1:],
                          [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scales, "scales")])
opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
path = sys.argv[1] + "/product.onnx"
onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)

core, wrong = openvino.Core(), []
for settings in ({"INFERENCE_PRECISION_HINT": "f32"},
                 {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}):
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    found = compiled(x)[0]
    wrong.append(float(np.sqrt(np.square(found - exact).mean()) / exact.std()))
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    print(f"{settings}: reads back as {hint}, relative error {wrong[-1]:.1e}")
sys.exit(not (wrong[0] > 1e-3 and wrong[1] < 1e-5))
PY
