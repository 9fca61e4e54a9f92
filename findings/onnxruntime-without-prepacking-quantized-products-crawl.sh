#!/bin/sh
# Guess: `session.disable_prepacking`, which saves the packed copy of all weights, costs a quantized product about what it costs a
#   float32 one, since the same kernel then reads the weights in the order of the file.
# Version: onnxruntime 1.32.0, CPU, one thread (numpy 2.4.6, onnx 1.23.2), one row times a 1024 x 1024 matrix, blocks of 32.
# Behaviour: a float32 MatMul takes 1 to 2 times as long. com.microsoft's MatMulNBits takes some 10 to 100 times as long, in 8 bits
#   and in 4, far longer than float32, and says nothing: the kernels that multiply integers take packed weights alone. The numbers
#   change, too: without packing the row is no longer rounded to 8 bits, though the node still asks for accuracy level 4.
#   Seen on two cores of an AMD EPYC (AVX512-VNNI): float32 1.0, 8 bits 22, 4 bits 26 times as long; mean error 5e-3 with
#   prepacking, 2e-7 without.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import sys
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T, helper

SIZE, BLOCK, ROUNDS = 1024, 32, 25
GROUPS = SIZE // BLOCK
rng = np.random.default_rng(0)


def constant(name, kind, values):
    return helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True)


def weights(bits):
    """The node and its tensors; the second value is the matrix in float64."""
    if bits == 32:
        matrix = rng.standard_normal((SIZE, SIZE)).astype(np.float32)
        return helper.make_node("MatMul", ["x", "w"], ["y"]), [constant("w", T.FLOAT, matrix)], matrix.astype(np.float64)
    codes = rng.integers(0, 2**bits, (SIZE, GROUPS, BLOCK), dtype=np.uint8)
    packed = codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4
    scales = np.full((SIZE, GROUPS), 0.01, np.float32)
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=SIZE, N=SIZE, bits=bits,
                            block_size=BLOCK, accuracy_level=4)
    matrix = 0.01 * (codes.reshape(SIZE, SIZE).astype(np.float64) - 2 ** (bits - 1))
    return node, [constant("w", T.UINT8, packed), constant("s", T.FLOAT, scales)], matrix.T


def sessions(bits):
    node, stored, matrix = weights(bits)
    ends = [[helper.make_tensor_value_info(name, T.FLOAT, [1, SIZE])] for name in "xy"]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", *ends, stored), opset_imports=opsets, ir_version=10)
    made = []
    for disabled in "01":
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.disable_prepacking", disabled)
        made.append(ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]))
    return made, matrix


row = rng.standard_normal((1, SIZE)).astype(np.float32)
slower, error = {}, {}
for bits in (32, 8, 4):
    (packed, plain), matrix = sessions(bits)
    least = [float("inf")] * 2
    for _ in range(ROUNDS):
        for at, session in enumerate((packed, plain)):
            start = time.perf_counter()
            session.run(None, {"x": row})
            least[at] = min(least[at], time.perf_counter() - start)
    right = row.astype(np.float64) @ matrix
    error[bits] = [float(np.abs(s.run(None, {"x": row})[0] - right).mean() / np.abs(right).mean()) for s in (packed, plain)]
    slower[bits] = least[1] / least[0]
    print(f"{bits:2} bits: {slower[bits]:6.1f} times as long without prepacking; mean error {error[bits][0]:.1e}, without {error[bits][1]:.1e}")
same = slower[32] < 4 and min(slower[8], slower[4]) > 2.5 * slower[32]
same = same and all(error[bits][0] > 100 * error[bits][1] for bits in (8, 4))
sys.exit(0 if same else "the times or values are no longer what this script states")
PY
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$here/venv/bin/python" "$here/run.py"
