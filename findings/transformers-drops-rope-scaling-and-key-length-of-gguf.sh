#!/bin/sh
# Guess: `from_pretrained(directory, gguf_file=NAME)` gives the model that the file describes, or says what it does not read.
# Version: transformers 5.24.0 with gguf 0.19.0 (torch 2.13.0, accelerate 1.15.0).
# Behaviour: metadata that its mapping of an architecture lacks are dropped without a word. A llama whose
#   `llama.rope.scaling.*` says yarn, factor 4, gets plain rotary positions: right for short prompts, another model
#   beyond the original context. A qwen3 whose `qwen3.attention.key_length` says 32 gets heads of 128, the default.
# Seen: rope_type "default" where the file says yarn; head_dim 128 where the file says 32.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import sys

import numpy as np
from gguf import GGUFWriter, RopeScalingType
from transformers import AutoConfig


def write(path, architecture, more):
    """The metadata of one small layer; a configuration needs no more tensors than one."""
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(4096)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(8)
    more(writer)
    writer.add_tensor("token_embd.weight", np.zeros((8, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def yarn(writer):
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(1024)


def head_size(writer):
    writer.add_key_length(32)
    writer.add_value_length(32)


folder = sys.argv[1]
write(f"{folder}/llama.gguf", "llama", yarn)
write(f"{folder}/qwen3.gguf", "qwen3", head_size)
llama = AutoConfig.from_pretrained(folder, gguf_file="llama.gguf")
qwen3 = AutoConfig.from_pretrained(folder, gguf_file="qwen3.gguf")
print("llama, yarn x4 in the file:", llama.rope_parameters)
print("qwen3, key_length 32 in the file: head_dim", qwen3.head_dim)
sys.exit(llama.rope_parameters["rope_type"] != "default" or qwen3.head_dim != 128)
PY
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
"$here/venv/bin/python" -W ignore "$here/run.py" "$here"
