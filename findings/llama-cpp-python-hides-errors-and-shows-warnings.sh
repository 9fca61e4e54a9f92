#!/bin/sh
# Guess: llama-cpp-python sends llama.cpp's log through the logger `llama-cpp-python`; at its level ERROR, which is what
#   `verbose=False` sets, errors are printed and nothing else.
# Version: llama-cpp-python 0.3.36, gguf 0.19.0.
# Behaviour: the other way round. llama.cpp has renumbered its levels (warning 3, error 4), and the logger still takes 3
#   for an error and 4 for a debugging remark: a good file's warnings are printed, and the reason why a file could not be
#   opened is not. A callback of one's own gets both, with the new numbers.
# Installing compiles llama.cpp: some minutes, a C++ compiler is needed.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 numpy
cat > "$here/run.py" <<'PY'
import ctypes, logging, sys
import gguf, llama_cpp, numpy as np

good = f"{sys.argv[1]}/good.gguf"
w = gguf.GGUFWriter(good, "llama")
w.add_context_length(64); w.add_embedding_length(32); w.add_block_count(1); w.add_feed_forward_length(64)
w.add_head_count(2); w.add_head_count_kv(2); w.add_layer_norm_rms_eps(1e-5); w.add_rope_dimension_count(16)
w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("gpt-2"); w.add_token_list(["a", "b", "ab"]); w.add_token_types([1] * 3)
w.add_token_merges(["a b"])
shapes = {"token_embd": (3, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
          "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
          **{f"blk.0.attn_{n}": (32, 32) for n in ("q", "k", "v", "output")}}
for name, shape in shapes.items():
    w.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()

logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
got = []
if sys.argv[2] == "own":
    callback = llama_cpp.llama_log_callback(lambda level, text, _: got.append((level, text.decode().strip())))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
path = {"good": good, "absent": f"{sys.argv[1]}/absent.gguf"}[sys.argv[3]]
model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
print(f"{sys.argv[3]}: {'loaded' if model else 'not loaded'}", file=sys.stdout)
for level, text in got:
    if level in (3, 4):
        print(level, text.replace(sys.argv[1], ""))
PY
run() { "$here/venv/bin/python" "$here/run.py" "$here" "$@"; }
echo "printed at level ERROR, a good file:"; run logger good 2>&1 | tee "$here/good"
echo "printed at level ERROR, a file that is not there:"; run logger absent 2>&1 | tee "$here/absent"
echo "told to a callback, a good file:"; run own good | tee "$here/own-good"
echo "told to a callback, a file that is not there:"; run own absent | tee "$here/own-absent"
test "$(wc -l < "$here/good")" -gt 1          # warnings are shown
test "$(cat "$here/absent")" = "absent: not loaded"  # the error is not
grep -q '^3 ' "$here/own-good"
if grep -q '^4 ' "$here/own-good"; then exit 1; fi
grep -q '^4 .*absent.gguf' "$here/own-absent"
