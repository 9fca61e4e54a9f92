#!/bin/sh
# Guess: once a GGUF file is in the page cache, llama.cpp decodes from it at one speed: the bytes decide, and not who wrote them.
# Version: llama-cpp-python 0.3.36 (llama.cpp 0c1e57098), gguf 0.19.0, Linux 6.18 on ext4 (large folios: ext4 from 6.16 on, XFS).
# Behaviour: the page cache keeps a file in pieces of the size in which it was written, and the mapping, which llama.cpp's threads
#   read all weights through for each token, is made of these. Written in calls of 4 KiB (so do small buffers: llama.cpp's own
#   quantizer flushes a stream), the same bytes take about 1.2 to 1.6 times as long as written in calls of 4 MiB: every page has a
#   page table entry of its own. A copy, or reading the file from the disk again, mends it.
# Installing compiles llama.cpp: some minutes, a C++ compiler is needed. Wants an idle machine.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 numpy
cat > "$here/run.py" <<'PY'
import ctypes, os, sys, time
import gguf, llama_cpp as api, numpy as np

here, D, FFN, LAYERS, VOCAB = sys.argv[1], 1024, 4096, 16, 64


def write(path):
    random = np.random.default_rng(0)
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(256); w.add_embedding_length(D); w.add_block_count(LAYERS); w.add_vocab_size(VOCAB)
    w.add_feed_forward_length(FFN); w.add_head_count(16); w.add_head_count_kv(4); w.add_rope_dimension_count(64)
    w.add_layer_norm_rms_eps(1e-5); w.add_tokenizer_model("no_vocab")
    tensor = lambda name, *shape: w.add_tensor(f"{name}.weight", random.standard_normal(shape, np.float32) / 32)

    def quantized(name, *shape):
        rows = gguf.quants.quantize(random.standard_normal(shape, np.float32) / 32, gguf.GGMLQuantizationType.Q8_0)
        w.add_tensor(f"{name}.weight", rows, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    tensor("token_embd", VOCAB, D); tensor("output_norm", D); tensor("output", VOCAB, D)
    for i in range(LAYERS):
        tensor(f"blk.{i}.attn_norm", D); tensor(f"blk.{i}.ffn_norm", D)
        quantized(f"blk.{i}.attn_q", D, D); quantized(f"blk.{i}.attn_output", D, D)
        quantized(f"blk.{i}.attn_k", D // 4, D); quantized(f"blk.{i}.attn_v", D // 4, D)
        quantized(f"blk.{i}.ffn_gate", FFN, D); quantized(f"blk.{i}.ffn_up", FFN, D); quantized(f"blk.{i}.ffn_down", D, FFN)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def rewrite(source, path, piece):
    with open(source, "rb") as whole, open(path, "wb", buffering=0) as file:
        while part := whole.read(piece):
            file.write(part)


def mapped_in_huge_pages(path):
    """Megabytes of the file that this process maps in whole huge pages."""
    found, ours = 0, False
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0]:
            ours = line.rstrip().endswith(path)
        elif ours and line.startswith("FilePmdMapped:"):
            found += int(line.split()[1])
    return found >> 10


class Model:
    def __init__(self, path):
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        options = api.llama_context_default_params()
        options.n_ctx, options.n_threads, options.n_threads_batch = 256, 1, 1
        self.context, self.batch, self.at = api.llama_init_from_model(self.model, options), api.llama_batch_init(1, 0, 1), 0

    def step(self):
        b = self.batch
        b.n_tokens, b.token[0], b.pos[0], b.n_seq_id[0], b.logits[0], b.seq_id[0][0] = 1, 5, self.at, 1, 1, 0
        start = time.perf_counter()
        assert api.llama_decode(self.context, b) == 0
        logits = np.ctypeslib.as_array(api.llama_get_logits_ith(self.context, 0), (VOCAB,)).copy()
        self.at += 1
        return time.perf_counter() - start, logits


callback = api.llama_log_callback(lambda *_: None)
api.llama_log_set(callback, ctypes.c_void_p())
write(f"{here}/first.gguf")
rewrite(f"{here}/first.gguf", f"{here}/small.gguf", 4 << 10)
rewrite(f"{here}/first.gguf", f"{here}/large.gguf", 4 << 20)
print(f"file: {os.path.getsize(f'{here}/large.gguf') >> 20} MB, Q8_0")
small, large = Model(f"{here}/small.gguf"), Model(f"{here}/large.gguf")
pairs, same = [], True
for _ in range(60):
    (a, x), (b, y) = small.step(), large.step()
    pairs.append((a, b)); same &= np.array_equal(x, y)
slower = np.median([a / b for a, b in pairs[5:]])
in_huge = [mapped_in_huge_pages(f"{here}/{name}.gguf") for name in ("small", "large")]
print(f"mapped in huge pages: written in 4 KiB {in_huge[0]} MB, written in 4 MiB {in_huge[1]} MB; same logits: {same}")
print(f"time of a token, written in 4 KiB / written in 4 MiB: {slower:.2f}")
sys.exit(0 if in_huge[0] < 10 and in_huge[1] > 100 and slower > 1.08 and same else 1)
PY
"$here/venv/bin/python" "$here/run.py" "$here"
