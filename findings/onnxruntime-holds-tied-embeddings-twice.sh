#!/bin/sh
# Guess: a table that is the embedding (Gather) and the head (Gemm with transB=1) of one graph, stored once in external data, is
#   in memory once, and a graph that writes the head as MatMul of the table's Transpose needs at least as much.
# Version: onnxruntime 1.32.0, CPU (onnx 1.23.2, numpy 2.4.6).
# Behaviour: it is resident twice, once as pages of the mapped file and once packed for the product. Without the Gather the pages
#   go when the head is packed. With Transpose and MatMul they go, too, although the Gather is there: only the rows that
#   it reads come back. With prepacking off there is one copy. The pages of the file can be reclaimed, but count as resident.
# Output, in tables, of a session after some runs: head alone 1.1, tied 2.1, tied without prepacking 1.1, tied by Transpose 1.1.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T, helper

ROWS, WIDTH = 65_536, 512
HEADS = {
    "head": [helper.make_node("Gemm", ["x", "table"], ["y"], transB=1)],
    "tied": [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("Gemm", ["x", "table"], ["y"], transB=1)],
    "transposed": [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]),
                   helper.make_node("MatMul", ["x", "t"], ["y"])],
}


def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


step, name, folder = sys.argv[1:]
path = Path(folder) / f"{name}.onnx"
if step == "write":
    table = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    given = ("x", T.FLOAT, ["s", WIDTH]) if name == "head" else ("ids", T.INT64, ["s"])
    graph = helper.make_graph(HEADS[name], "g", [helper.make_tensor_value_info(*given)],
                              [helper.make_tensor_value_info("y", T.FLOAT, ["s", ROWS])], [onnx.numpy_helper.from_array(table, "table")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, path, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    sys.exit()
options = ort.SessionOptions()
options.intra_op_num_threads = 1
if step == "unpacked":
    options.add_session_config_entry("session.disable_prepacking", "1")
before = resident()
session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
feeds = {"x": np.zeros((1, WIDTH), np.float32)} if name == "head" else {"ids": np.arange(1)}
for _ in range(3):
    session.run(None, feeds)
print(ort.__version__, name, step, round((resident() - before) / (4 * ROWS * WIDTH), 1))
PY
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
for name in head tied transposed; do "$here/venv/bin/python" "$here/run.py" write $name "$here"; done
found=$(
  "$here/venv/bin/python" "$here/run.py" packed head "$here"
  "$here/venv/bin/python" "$here/run.py" packed tied "$here"
  "$here/venv/bin/python" "$here/run.py" unpacked tied "$here"
  "$here/venv/bin/python" "$here/run.py" packed transposed "$here"
)
echo "$found"
echo "$found" | awk '
  { copies[$2 " " $3] = $4 }
  END { exit !(copies["head packed"] < 1.3 && copies["tied packed"] > 1.8 && copies["tied unpacked"] < 1.3 && copies["transposed packed"] < 1.3) }'
