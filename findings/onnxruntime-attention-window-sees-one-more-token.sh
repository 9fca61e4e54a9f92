#!/bin/sh
# Guess: com.microsoft's GroupQueryAttention with `local_window_size` W lets a token see itself and W - 1 tokens before it,
#   as `sliding_window` does in transformers, in every release that has the attribute.
# Version: onnxruntime 1.23.2 and 1.24.1, CPU (numpy 2.4.6, onnx 1.23.2).
# Behaviour: 1.23.2 lets it see W tokens before it, one more; 1.24.1 W - 1. The same file loads in both without a word, and
#   gives other numbers as soon as a prompt is longer than the window.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import numpy as np, onnxruntime as ort
from onnx import TensorProto as T, helper

HEADS, KV, SIZE, WINDOW, FIRST, MORE, ROOM = 4, 2, 32, 8, 20, 6, 64


def model():
    node = helper.make_node(
        "GroupQueryAttention", ["q", "k", "v", "past_k", "past_v", "seqlens_k", "total"], ["y", "present_k", "present_v"],
        domain="com.microsoft", num_heads=HEADS, kv_num_heads=KV, local_window_size=WINDOW)
    cache = [1, KV, ROOM, SIZE]
    inputs = [("q", T.FLOAT, [1, "s", HEADS * SIZE]), ("k", T.FLOAT, [1, "s", KV * SIZE]), ("v", T.FLOAT, [1, "s", KV * SIZE]),
              ("past_k", T.FLOAT, cache), ("past_v", T.FLOAT, cache), ("seqlens_k", T.INT32, [1]), ("total", T.INT32, [1])]
    outputs = [("y", T.FLOAT, [1, "s", HEADS * SIZE]), ("present_k", T.FLOAT, cache), ("present_v", T.FLOAT, cache)]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(*i) for i in inputs],
                              [helper.make_tensor_value_info(*o) for o in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=9)


def reference(q, k, v, seen):
    """Causal attention in which a token sees itself and `seen` - 1 before it."""
    length = q.shape[1]
    q, k, v = (x[0].reshape(length, -1, SIZE).transpose(1, 0, 2) for x in (q, k, v))
    k, v = k.repeat(HEADS // KV, 0), v.repeat(HEADS // KV, 0)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(SIZE)
    age = np.arange(length)[:, None] - np.arange(length)[None]
    scores = np.where((age >= 0) & (age < seen), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return (shares @ v).transpose(1, 0, 2).reshape(1, length, -1)


generator = np.random.default_rng(0)
length = FIRST + MORE
q, k, v = (generator.normal(size=(1, length, n * SIZE)).astype(np.float32) for n in (HEADS, KV, KV))
session = ort.InferenceSession(model().SerializeToString(), providers=["CPUExecutionProvider"])
caches, found, start = [np.zeros((1, KV, ROOM, SIZE), np.float32)] * 2, [], 0
for stop in (FIRST, *range(FIRST + 1, length + 1)):
    feeds = dict(q=q[:, start:stop], k=k[:, start:stop], v=v[:, start:stop], past_k=caches[0], past_v=caches[1],
                 seqlens_k=np.array([stop - 1], np.int32), total=np.array([stop], np.int32))
    y, *caches = session.run(None, feeds)
    found.append(y)
    start = stop
found = np.concatenate(found, 1)
for seen in (WINDOW, WINDOW + 1):
    print(ort.__version__, seen, float(np.abs(found - reference(q, k, v, seen)).max()))
PY
for version in 1.23.2 1.24.1; do
  python3 -m venv "$here/$version"
  "$here/$version/bin/pip" install -q --disable-pip-version-check "onnxruntime==$version" onnx==1.23.2 numpy==2.4.6
  "$here/$version/bin/python" "$here/run.py" | tee -a "$here/out"
done
python3 - "$here/out" <<'PY'
import sys
found = {tuple(line.split()[:2]): float(line.split()[2]) for line in open(sys.argv[1])}
right = {("1.23.2", "8"): False, ("1.23.2", "9"): True, ("1.24.1", "8"): True, ("1.24.1", "9"): False}
sys.exit(any((found[case] < 1e-5) != same for case, same in right.items()))
PY
