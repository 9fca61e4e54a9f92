#!/bin/sh
# Guess: `model.requires_grad_(False)` does not change how fast a model reads a prompt under `torch.no_grad()`: it says what is
#   trained, and nothing is.
# Version: torch 2.13.0, transformers 5.24.0, a processor with bfloat16 products.
# Behaviour: in bfloat16 on a processor, the first token comes after several times as long, the logits being equal. `generate` keeps the
#   last position alone, a view [batch, 1, hidden] of the hidden states whose first stride skips the prompt. With a
#   weight that requires a gradient, torch folds batch and positions and calls `mm`, even where no gradient is recorded. With
#   a frozen one it folds only what needs no copy, takes the view for something that does, though it has one position and is
#   contiguous, and calls `bmm` on the weight expanded to the batch: a copy of the whole embedding table for every row of the
#   batch. `.contiguous()` and `.clone()` keep such strides; indexing to two dimensions helps. Adapters freeze their base.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY' 2>/dev/null
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
torch.set_num_threads(1)
config = LlamaConfig(
    vocab_size=65536, hidden_size=640, intermediate_size=1280, num_hidden_layers=2, num_attention_heads=10, num_key_value_heads=2
)
model = LlamaForCausalLM(config).bfloat16().eval()
prompt = torch.randint(0, 65536, (1, 128))


@torch.no_grad()
def last_logits(batch=1):
    return model(prompt.repeat(batch, 1), logits_to_keep=1, use_cache=False).logits


def milliseconds(batch):
    times = []
    for _ in range(5):
        start = time.process_time()
        last_logits(batch)
        times.append(1000 * (time.process_time() - start))
    return min(times)


def head_products():
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        last_logits()
    names = [event.name for event in seen.events()]
    return names.count("aten::bmm")


seen = {}
for frozen in (False, True):
    model.requires_grad_(not frozen)
    seen[frozen] = milliseconds(1), milliseconds(2), head_products(), last_logits()
    one, two, batched, _ = seen[frozen]
    print(f"{'frozen' if frozen else 'trainable'}: a prompt {one:.0f} ms, two prompts {two:.0f} ms, {batched} calls of bmm")
model.requires_grad_(False).float()
print(f"frozen, in float32: a prompt {milliseconds(1):.0f} ms")
(trainable, frozen), equal = (seen[False], seen[True]), torch.equal(seen[False][3], seen[True][3])
print(f"equal logits: {equal}")
sys.exit(not (equal and frozen[0] > 3 * trainable[0] and frozen[2] > trainable[2] == 0))
PY
