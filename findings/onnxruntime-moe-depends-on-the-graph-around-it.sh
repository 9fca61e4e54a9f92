#!/bin/sh
# Guess: an ONNX operator gives the same result whatever stands around it in the graph; MoE with
#   `normalize_routing_weights` 0 is right alone, so it is right in a model.
# Version: onnxruntime 1.31.1 and 1.32.0, CPU (numpy 2.4.6, onnx 1.23.2).
# Behaviour: in 1.31.1 (and 1.24.1 to 1.31.1, by hand) the result is wrong where the operator's input is an intermediate
#   value that nothing reads afterwards, so that its memory can become the output's: off by 0.6 here. Making the input
#   or the output a graph output as well, as one does to debug, makes the result right. Switching off graph optimization or
#   memory reuse does not. With normalize_routing_weights 1 it is right everywhere. 1.32.0 is right.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import numpy as np, onnxruntime as ort
from onnx import TensorProto as T, helper, numpy_helper

EXPERTS, CHOSEN, WIDTH, INNER, TOKENS = 6, 3, 64, 96, 12
generator = np.random.default_rng(0)
up, down, router = ((generator.normal(size=s) * 0.1).astype(np.float32)
                    for s in ((EXPERTS, 2 * INNER, WIDTH), (EXPERTS, WIDTH, INNER), (WIDTH, EXPERTS)))
x = generator.normal(size=(TOKENS, WIDTH)).astype(np.float32)


def run(normalize, shown):
    """x + MoE(1 * x); `shown` is an intermediate value that is a graph output, too."""
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["read"]),
        helper.make_node("MatMul", ["read", "router"], ["logits"]),
        helper.make_node("MoE", ["read", "logits", "up", "", "down"], ["added"], domain="com.microsoft", k=CHOSEN,
                         activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0,
                         normalize_routing_weights=normalize),
        helper.make_node("Add", ["added", "x"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info(name, T.FLOAT, [TOKENS, WIDTH]) for name in ("y", *shown)]
    weights = {"one": np.ones(1, np.float32), "up": up, "down": down, "router": router}
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", T.FLOAT, [TOKENS, WIDTH])], outputs,
                              [numpy_helper.from_array(value, name) for name, value in weights.items()])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]


def reference(normalize):
    logits = x @ router
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    y = x.copy()
    for token in range(TOKENS):
        best = np.argsort(-shares[token])[:CHOSEN]
        total = shares[token][best].sum() if normalize else 1.0
        for expert in best:
            inner = up[expert] @ x[token]
            gate, value = inner[::2], inner[1::2]
            y[token] += shares[token, expert] / total * (down[expert] @ (gate / (1 + np.exp(-gate)) * value))
    return y


for normalize in (0, 1):
    for shown in ((), ("added",), ("read",)):
        error = float(np.abs(run(normalize, shown) - reference(normalize)).max())
        print(ort.__version__, normalize, "+".join(("y", *shown)), error)
PY
for version in 1.31.1 1.32.0; do
  python3 -m venv "$here/$version"
  "$here/$version/bin/pip" install -q --disable-pip-version-check "onnxruntime==$version" onnx==1.23.2 numpy==2.4.6
  "$here/$version/bin/python" "$here/run.py" | tee -a "$here/out"
done
python3 - "$here/out" <<'PY'
import sys
found = {tuple(line.split()[:3]): float(line.split()[3]) for line in open(sys.argv[1])}
wrong = {case for case, error in found.items() if error > 1e-3}
sys.exit(wrong != {("1.31.1", "0", "y")})
PY
