#!/bin/sh
# Guess: llama.cpp's architecture `deci` takes feed_forward_length 0 for a layer (its loader asks for no FFN tensors then), and
#   such a layer is its attention alone: the same as with an FFN of zeros.
# Version: llama-cpp-python 0.3.36 (llama.cpp 0c1e57098), gguf 0.19.0.
# Behaviour: the layer's attention is loaded, computed and thrown away. Logits are those of the model without that attention,
#   bit for bit, and no message says so. An FFN of 32 zero channels gives what was meant.
# Installing compiles llama.cpp: some minutes, a C++ compiler is needed.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 numpy
cat > "$here/run.py" <<'PY'
import ctypes, sys
import gguf, llama_cpp as api, numpy as np

D, SIZE, VOCAB, TOKENS = 32, 16, 24, [3, 1, 4, 1, 5, 9, 2, 6]


def write(path, heads, ffn):
    """Three layers; the middle one has these heads and FFN channels. Channels of an FFN of 32 are zeros there."""
    random = np.random.default_rng(0)
    w = gguf.GGUFWriter(path, "deci")
    w.add_context_length(64); w.add_embedding_length(D); w.add_block_count(3); w.add_vocab_size(VOCAB)
    w.add_feed_forward_length([64, ffn, 64]); w.add_head_count([2, heads, 2]); w.add_head_count_kv([2, heads, 2])
    w.add_key_length(SIZE); w.add_value_length(SIZE); w.add_rope_dimension_count(SIZE); w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("no_vocab")

    def tensor(name, *shape, keep=True, scale=0.2):
        value = random.standard_normal(shape).astype(np.float32) * scale
        if keep:
            w.add_tensor(f"{name}.weight", value)

    tensor("token_embd", VOCAB, D); tensor("output_norm", D)
    for i in range(3):
        middle = i == 1
        attention = not middle or heads > 0
        tensor(f"blk.{i}.attn_norm", D, keep=attention)
        for part in ("q", "k", "v", "output"):
            tensor(f"blk.{i}.attn_{part}", D, D, keep=attention)
        width, scale = (32, 0) if middle else (64, 0.2)
        there = not middle or ffn > 0
        tensor(f"blk.{i}.ffn_norm", D, keep=there)
        for part, shape in (("gate", (width, D)), ("up", (width, D)), ("down", (D, width))):
            tensor(f"blk.{i}.ffn_{part}", *shape, keep=there, scale=scale)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def logits(path):
    model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
    options = api.llama_context_default_params()
    options.n_ctx, options.type_k, options.type_v = 64, api.GGML_TYPE_F32, api.GGML_TYPE_F32
    options.flash_attn_type, options.n_threads, options.n_threads_batch = 0, 1, 1
    context = api.llama_init_from_model(model, options)
    batch = api.llama_batch_init(len(TOKENS), 0, 1)
    batch.n_tokens = len(TOKENS)
    for i, token in enumerate(TOKENS):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    assert api.llama_decode(context, batch) == 0
    found = np.ctypeslib.as_array(api.llama_get_logits(context), (len(TOKENS), VOCAB)).copy()
    return found


said = []
callback = api.llama_log_callback(lambda level, text, _: said.append(text) if level in (3, 4) else None)
api.llama_log_set(callback, ctypes.c_void_p(0))
api.llama_backend_init()
found = {}
for name, heads, ffn in (("ffn 0", 2, 0), ("ffn of zeros", 2, 32), ("no attention, ffn of zeros", 0, 32)):
    write(f"{sys.argv[1]}/m.gguf", heads, ffn)
    said.clear()
    found[name] = logits(f"{sys.argv[1]}/m.gguf")
    if name == "ffn 0":
        about = [text for text in said if b"ffn" in text or b"feed_forward" in text or b"attention" in text]
        print("warnings about the layer:", about)
        assert not about
meant, without = (float(np.abs(found["ffn 0"] - found[name]).max()) for name in list(found)[1:])
print(f"a layer with attention and feed_forward_length 0, largest difference of logits:")
print(f"  from the same layer with an FFN of zeros: {meant:.3g} (logits are up to {np.abs(found['ffn 0']).max():.3g})")
print(f"  from a layer without attention: {without:.3g}")
assert meant > 0.01
assert without == 0
PY
"$here/venv/bin/python" "$here/run.py" "$here"
