#!/bin/sh
# Guess: com.microsoft's MatMulNBits with 2 bits is at most as slow as with 4: half the bytes; the size of a block matters little.
# Version: onnxruntime 1.32.0, CPU, one thread (numpy 2.4.6, onnx 1.23.2), one row times a 1024 x 1024 matrix.
# Behaviour: with blocks of 64 or 128 and accuracy level 4, 2 bits take as long as 4. With blocks of 16 or 256, or another
#   accuracy level, which run just as well without a word, they take some 20 to 100 times as long, far longer than float32.
#   Seen on two cores of an AMD EPYC (AVX512-VNNI), as times over 4 bits in blocks of 32: 2 bits in blocks of 64 0.7, of 128 0.5,
#   of 16 27, of 256 23, of 128 at accuracy level 0 24; float32 3.3.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import sys
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T, helper

SIZE, ROUNDS = 1024, 25
rng = np.random.default_rng(0)


def constant(name, kind, values):
    return helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True)


def product(bits, block, level):
    """A session that multiplies a row by a matrix of so many bits; 32: float32."""
    if bits == 32:
        stored = [constant("w", T.FLOAT, rng.standard_normal((SIZE, SIZE)).astype(np.float32))]
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    else:
        groups = SIZE // block
        stored = [constant("w", T.UINT8, rng.integers(0, 256, (SIZE, groups, block * bits // 8), dtype=np.uint8)),
                  constant("s", T.FLOAT, np.full((SIZE, groups), 0.01, np.float32))]
        node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=SIZE, N=SIZE, bits=bits,
                                block_size=block, accuracy_level=level)
    ends = [[helper.make_tensor_value_info(name, T.FLOAT, [1, SIZE])] for name in "xy"]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", *ends, stored), opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


formats = [(32, 0, 0), (4, 32, 4), (2, 64, 4), (2, 128, 4), (2, 16, 4), (2, 256, 4), (2, 128, 0)]
sessions, least = {form: product(*form) for form in formats}, dict.fromkeys(formats, float("inf"))
row = {"x": rng.standard_normal((1, SIZE)).astype(np.float32)}
for _ in range(ROUNDS):
    for form, session in sessions.items():
        start = time.perf_counter()
        session.run(None, row)
        least[form] = min(least[form], time.perf_counter() - start)
ratio = {form: seconds / least[4, 32, 4] for form, seconds in least.items()}
for (bits, block, level), value in ratio.items():
    print(f"{bits:2} bits, blocks of {block:3}, accuracy level {level}: {value:6.2f} of 4 bits in blocks of 32")
fast, slow = [(2, 64, 4), (2, 128, 4)], [(2, 16, 4), (2, 256, 4), (2, 128, 0)]
same = all(ratio[form] < 3 for form in fast) and all(ratio[form] > 3 * ratio[32, 0, 0] for form in slow)
sys.exit(0 if same else "the times are no longer what this script states")
PY
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$here/venv/bin/python" "$here/run.py"
