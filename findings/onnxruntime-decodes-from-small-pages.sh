#!/bin/sh
# Guess: ONNX Runtime keeps hundreds of megabytes of packed weights in large allocations, and Linux backs those with huge pages, as
#   it does for NumPy's arrays: the default of distributions, `madvise`, only wants to be asked.
# Version: onnxruntime 1.32.0, Linux 6.18 (the call needs 6.1) with transparent huge pages on `madvise`, as many
#   distributions set them.
# Behaviour: ONNX Runtime does not ask. All of its weights are in pages of 4 KiB, and a matrix product with one row, which reads every
#   weight once, waits for page tables: moving the same memory into huge pages (`MADV_COLLAPSE`) makes it faster by a tenth to a quarter.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$here/run.py" <<'PY'
import ctypes, sys, time
import numpy as np, onnx, onnxruntime as ort
from onnx import helper, numpy_helper

SIZE, LAYERS, HUGE = 1536, 30, 2 << 20
setting = open("/sys/kernel/mm/transparent_hugepage/enabled").read()
print("transparent huge pages:", setting.strip())
if "[madvise]" not in setting:
    sys.exit("this machine's setting is another one: nothing to see here")


def session():
    """A chain of matrix products of one row: 270 MB of weights in float32."""
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for i in range(LAYERS):
        weights.append(numpy_helper.from_array(random.standard_normal((SIZE, SIZE), np.float32) / SIZE**0.5, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"y{i}"]))
        value = f"y{i}"
    info = lambda name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, SIZE])
    graph = helper.make_graph(nodes, "g", [info("x")], [info(value)], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def huge_megabytes():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages"))


def mappings():
    found = set()
    for line in open("/proc/self/maps"):
        places, permissions, _, _, inode, *_ = line.split()
        if permissions == "rw-p" and inode == "0":
            first, last = (int(place, 16) for place in places.split("-"))
            found.update(range(-(-first // HUGE) * HUGE, last - HUGE + 1, HUGE))
    return found


x = np.ones((1, SIZE), np.float32)
small = session()
small.run(None, {"x": x})
before, found = huge_megabytes(), mappings()
large = session()
large.run(None, {"x": x})
asked = huge_megabytes() - before
madvise = ctypes.CDLL(None).madvise
madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for place in sorted(mappings() - found):
    madvise(place, HUGE, 25)
moved = huge_megabytes() - before - asked
same = np.array_equal(small.run(None, {"x": x})[0], large.run(None, {"x": x})[0])
times = {"small": [], "large": []}
for _ in range(40):
    for name, one in (("small", small), ("large", large)):
        start = time.perf_counter()
        one.run(None, {"x": x})
        times[name].append(time.perf_counter() - start)
ratio = np.median([b / a for a, b in zip(times["small"], times["large"])])
print(f"weights {LAYERS * SIZE * SIZE * 4 >> 20} MB; in huge pages after loading: {asked} MB; after MADV_COLLAPSE: {moved} MB")
print(f"time of a step from huge pages / from small ones: {ratio:.2f}; same values: {same}")
sys.exit(0 if asked < 20 and moved > 200 and ratio < 0.95 and same else 1)
PY
"$here/venv/bin/python" "$here/run.py"
