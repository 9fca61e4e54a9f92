#!/bin/sh
# Guess: after `generate_next_token`, `append_tokens` continues the text that `get_sequence` returns: a chat's next turn
#   follows the whole answer.
# Version: onnxruntime-genai 0.18.0, onnxruntime 1.32.0, CPU (numpy 2.4.6, onnx 1.23.2).
# Behaviour: the last token that was generated is never read. Its place in the KV cache stays zeros (or holds what an
#   earlier text left there), the appended tokens are counted on behind it, and all logits from there on are of another
#   text, without an error; `get_sequence` lists it all the same. A call of `get_logits` before `append_tokens` has the
#   token read, and everything is right. (The token that ends an answer is neither listed nor read: after it, the next turn
#   begins with it, and `get_logits` must not be called.)
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import json, sys
from pathlib import Path

import numpy as np, onnx, onnxruntime_genai as genai
from onnx import TensorProto as T, helper, numpy_helper

VOCAB, WIDTH, LONGEST = 50, 16, 64
folder = Path(sys.argv[1])
generator = np.random.default_rng(0)
weights = {name: (0.3 * generator.normal(size=shape)).astype(np.float32) for name, shape in
           {"table": (VOCAB, WIDTH), "qkv": (WIDTH, 3 * WIDTH), "head": (WIDTH, VOCAB)}.items()}
weights |= {"one": np.array([1], np.int64)}
nodes = [
    helper.make_node("ReduceSum", ["attention_mask", "one"], ["counts"], keepdims=0),
    helper.make_node("Sub", ["counts", "one"], ["lasts"]),
    helper.make_node("Cast", ["lasts"], ["seqlens_k"], to=T.INT32),
    helper.make_node("Shape", ["attention_mask"], ["width"], start=1, end=2),
    helper.make_node("Squeeze", ["width"], ["total"]),
    helper.make_node("Cast", ["total"], ["total_length"], to=T.INT32),
    helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
    helper.make_node("MatMul", ["embedded", "qkv"], ["packed"]),
    helper.make_node("GroupQueryAttention", ["packed", "", "", "past.0.key", "past.0.value", "seqlens_k", "total_length"],
                     ["attended", "present.0.key", "present.0.value"], domain="com.microsoft", num_heads=1, kv_num_heads=1),
    helper.make_node("Add", ["attended", "embedded"], ["hidden"]),
    helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
]
cache = ["batch", 1, "length", WIDTH]
inputs = [helper.make_tensor_value_info(name, T.INT64, ["batch", name]) for name in ("input_ids", "attention_mask")]
inputs += [helper.make_tensor_value_info(f"past.0.{part}", T.FLOAT, cache) for part in ("key", "value")]
outputs = [helper.make_tensor_value_info("logits", T.FLOAT, ["batch", "input_ids", VOCAB])]
outputs += [helper.make_tensor_value_info(f"present.0.{part}", T.FLOAT, cache) for part in ("key", "value")]
graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(w, name) for name, w in weights.items()])
opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
decoder = {
    "filename": "model.onnx", "head_size": WIDTH, "hidden_size": WIDTH, "num_attention_heads": 1,
    "num_key_value_heads": 1, "num_hidden_layers": 1,
    "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask",
               "past_key_names": "past.%d.key", "past_value_names": "past.%d.value"},
    "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
}
config = {"model": {"type": "decoder", "vocab_size": VOCAB, "context_length": LONGEST, "eos_token_id": 49, "pad_token_id": 49,
                    "decoder": decoder},
          "search": {"max_length": LONGEST, "past_present_share_buffer": True}}
(folder / "genai_config.json").write_text(json.dumps(config))
model = genai.Model(str(folder))
prompt, turn = np.arange(1, 9, dtype=np.int32), np.arange(20, 26, dtype=np.int32)


def logits(text):
    """After a whole text, which one generator reads at once."""
    fresh = genai.Generator(model, genai.GeneratorParams(model))
    fresh.append_tokens(np.array(text, np.int32))
    return np.array(fresh.get_logits()).ravel()


def continued(ask):
    """The largest error of the logits after an answer of four tokens and one more turn."""
    chat = genai.Generator(model, genai.GeneratorParams(model))
    chat.append_tokens(prompt)
    for _ in range(4):
        chat.generate_next_token()
    if ask:
        chat.get_logits()
    chat.append_tokens(turn)
    return float(np.abs(np.array(chat.get_logits()).ravel() - logits(chat.get_sequence(0))).max())


plain, asked = continued(False), continued(True)
print(f"largest error of logits after the next turn: {plain:.2g}; with get_logits before append_tokens: {asked:.2g}")
ok = plain > 1e-2 and asked < 1e-5
print("as described" if ok else "CHANGED")
raise SystemExit(not ok)
PY
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
mkdir "$here/model"
"$here/venv/bin/python" "$here/run.py" "$here/model"
