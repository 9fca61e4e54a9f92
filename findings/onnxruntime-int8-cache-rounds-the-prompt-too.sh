#!/bin/sh
# Guess: with an int8 KV cache, com.microsoft's GroupQueryAttention computes a prompt from its exact keys and values, as
#   engines with a separate prefill kernel do; only later steps read the rounded cache. So logits of one prompt pass, and
#   perplexities from them, would not show what the cache costs.
# Version: onnxruntime 1.32.0, CPU (numpy 2.4.6, onnx 1.23.2); 1.27.0 to 1.31.1 do the same.
# Behaviour: keys and values are rounded first, and attention reads the codes, of the prompt's own tokens and of the newest one,
#   too. A prompt in one pass equals attention over rounded keys and values to 1e-5, and is off from the exact one.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import sys

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T, helper

HEADS, KV, DIM, PROMPT, LENGTH = 4, 2, 32, 100, 104
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((LENGTH, heads, DIM)).astype(np.float32) for heads in (HEADS, KV, KV))
scales = [np.abs(part).max(0) / 127 for part in (k, v)]


def session():
    cache = ["batch", KV, "length", DIM]
    kinds = {"q": T.FLOAT, "k": T.FLOAT, "v": T.FLOAT, "pk": T.INT8, "pv": T.INT8, "last": T.INT32, "total": T.INT32,
             "ks": T.FLOAT, "vs": T.FLOAT}
    ends = {"q": ["batch", "s", HEADS * DIM], "k": ["batch", "s", KV * DIM], "v": ["batch", "s", KV * DIM], "pk": cache,
            "pv": cache, "last": ["batch"], "total": [], "ks": [KV, DIM], "vs": [KV, DIM]}
    inputs = ["q", "k", "v", "pk", "pv", "last", "total", "", "", "", "", "", "ks", "vs"]
    node = helper.make_node("GroupQueryAttention", inputs, ["y", "nk", "nv"], domain="com.microsoft", num_heads=HEADS,
                            kv_num_heads=KV, k_quant_type="PER_CHANNEL", v_quant_type="PER_CHANNEL", kv_cache_bit_width=8)
    outputs = [helper.make_tensor_value_info("y", T.FLOAT, ends["q"])]
    outputs += [helper.make_tensor_value_info(name, T.INT8, cache) for name in ("nk", "nv")]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, kinds[n], ends[n]) for n in kinds], outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def attention(start, keys, values):
    """What the tokens from `start` on read, causally."""
    out = np.zeros_like(q[start : len(keys)])
    later = np.arange(len(keys))[None] > np.arange(start, len(keys))[:, None]
    for head in range(HEADS):
        group = head * KV // HEADS
        scores = np.where(later, -np.inf, q[start : len(keys), head] @ keys[:, group].T / DIM**0.5)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = shares / shares.sum(-1, keepdims=True) @ values[:, group]
    return out


def rounded(part, scale):
    return np.clip(np.rint(part / scale), -128, 127) * scale


run, past = session(), [np.zeros((1, KV, 0, DIM), np.int8)] * 2
same = True
for start, stop in ((0, PROMPT), (PROMPT, PROMPT + 1)):
    feed = {name: part[start:stop].reshape(1, stop - start, -1) for name, part in zip("qkv", (q, k, v))}
    feed |= {"pk": past[0], "pv": past[1], "last": np.array([stop - 1], np.int32), "total": np.array(stop, np.int32)}
    y, *past = run.run(None, feed | {"ks": scales[0], "vs": scales[1]})
    y = y.reshape(stop - start, HEADS, DIM)
    codes = [rounded(part[:stop], scale) for part, scale in zip((k, v), scales)]
    newest = [np.concatenate([part[:start], exact[start:stop]]) for part, exact in zip(codes, (k, v))]
    off = {"all rounded": codes, "its own tokens exact": newest}
    off = {name: float(np.abs(y - attention(start, *both)).max() / y.std()) for name, both in off.items()}
    print("prompt" if start == 0 else "next token", {name: f"{value:.1e}" for name, value in off.items()})
    same &= off["all rounded"] < 1e-4 and off["its own tokens exact"] > 1e-3
sys.exit(0 if same else "attention no longer reads what this script states")
PY
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$here/venv/bin/python" "$here/run.py"
